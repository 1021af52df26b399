// What the instruction-set files need of the standard library, compiled once for any processor.
#pragma once
namespace stateful_lstm::cpu {
[[noreturn]] void out_of_memory();
}
