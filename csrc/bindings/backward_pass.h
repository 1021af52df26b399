// Whether a backward pass is running in this thread, which only Python can tell.
#pragma once

namespace stateful_lstm {

// fastpath_module.cpp sets it when Python loads the library. Null in a process without Python.
inline bool (*in_backward_pass)() = nullptr;

}  // namespace stateful_lstm
