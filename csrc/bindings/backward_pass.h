// Whether a backward pass is running in this thread, which only Python can tell.
#pragma once

namespace stateful_lstm {

// python.cpp sets it when Python loads the library. Null: nobody has asked for it, as in a process without Python.
inline bool (*in_backward_pass)() = nullptr;

}  // namespace stateful_lstm
