# Offsets and sizes that cpu.rs declares and checks.

.set MAX_VCPUS, 16
.set CPU_STRIDE, 4096
.set CPU_BLOCK, 2048
.set STACK_SIZE, 8192
.set BOOT_STACK_SIZE, 32768

.set CPU_CURRENT, 0
.set CPU_STAMP, 8
.set CPU_FOLLOWING, 16
.set CPU_SCHEDULER_STACK, 24
.set CPU_PENDING, 32
.set CPU_IN_SCHEDULER, 33
.set CPU_INDEX, 40
.set PENDING_REARMED, 1
.set PENDING_SPENT, 2
.set PENDING_DEVICE, 8

.set CONTEXT_RAX, 512
.set CONTEXT_RBX, 520
.set CONTEXT_RCX, 528
.set CONTEXT_RDX, 536
.set CONTEXT_RSI, 544
.set CONTEXT_RDI, 552
.set CONTEXT_RBP, 560
.set CONTEXT_R8, 568
.set CONTEXT_R9, 576
.set CONTEXT_R10, 584
.set CONTEXT_R11, 592
.set CONTEXT_R12, 600
.set CONTEXT_R13, 608
.set CONTEXT_R14, 616
.set CONTEXT_R15, 624
.set CONTEXT_RIP, 632
.set CONTEXT_RFLAGS, 648
.set CONTEXT_RSP, 656
.set CONTEXT_CPU, 672

.section .bss, "aw", @nobits
.balign 4096
.globl cpus
cpus:
    .skip MAX_VCPUS * CPU_STRIDE
scheduler_stacks:
    .skip MAX_VCPUS * STACK_SIZE
# Where the first vCPU boots, and where an exception is reported, which is the end of everything else.
    .skip BOOT_STACK_SIZE
boot_stack_end:
