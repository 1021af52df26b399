// All kernels, for the instruction set whose file includes this.
#pragma once
#include "cpu/kernel_table.h"
