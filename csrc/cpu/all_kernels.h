// All kernels, compiled for the instruction set whose file includes this header.
#pragma once
#include "cpu/kernel_table.h"
