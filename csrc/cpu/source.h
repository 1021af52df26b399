// All kernels, for the instruction set of the file that includes this, inside its namespace.
// Keep this order: each builds on the one before.
#include "pack.h"
#include "sequence.h"
#include "panel.h"
#include "tiles.h"
#include "products.h"
#include "dots.h"
#include "forward.h"
#include "backward.h"
#include "gradients.h"
#include "step.h"
#include "step_tiles.h"
#include "table.h"
