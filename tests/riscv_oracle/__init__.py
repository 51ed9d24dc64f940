"""A machine as oracle: fixtures/riscv built, booted under QEMU, and what its hardware answered."""
