// SPDX-License-Identifier: MIT OR Apache-2.0
// A library that has the driver's name and nothing else of it.
int answer(void) { return 42; }
