# CPL 3: in and out of the scheduler. Runs at full speed everywhere, so contexts are saved and restored here.

.section .text, "ax", @progbits

# The timer or a device interrupted a task. RCX = its context; RAX, RCX, RDX and the frame are saved in it; RSP = scheduler stack.
user_upcall:
    mov %rdi, CONTEXT_RDI(%rcx)
    mov %rsi, CONTEXT_RSI(%rcx)
    mov %r8, CONTEXT_R8(%rcx)
    mov %r9, CONTEXT_R9(%rcx)
    mov %r10, CONTEXT_R10(%rcx)
    mov %r11, CONTEXT_R11(%rcx)
    mov %rbx, CONTEXT_RBX(%rcx)
    mov %rbp, CONTEXT_RBP(%rcx)
    mov %r12, CONTEXT_R12(%rcx)
    mov %r13, CONTEXT_R13(%rcx)
    mov %r14, CONTEXT_R14(%rcx)
    mov %r15, CONTEXT_R15(%rcx)
    fxsave64 (%rcx)
    mov CONTEXT_CPU(%rcx), %rdi

# RDI = block of the vCPU, RSP = end of its scheduler stack.
reschedule:
    mov %rdi, %rbx
    call schedule                   # RAX = context to run
    mov %rbx, %rdi
    fxrstor64 (%rax)

# An interrupt from here on that finds the scheduler left starts the scheduler afresh: the context is intact until IRETQ.
leave_window:
    movb $0, CPU_IN_SCHEDULER(%rdi)
    cmpb $0, CPU_PENDING(%rdi)
    jne 1f
    mov CONTEXT_RCX(%rax), %rcx
    mov CONTEXT_RDX(%rax), %rdx
    mov CONTEXT_RSI(%rax), %rsi
    mov CONTEXT_RDI(%rax), %rdi
    mov CONTEXT_R8(%rax), %r8
    mov CONTEXT_R9(%rax), %r9
    mov CONTEXT_R10(%rax), %r10
    mov CONTEXT_R11(%rax), %r11
    mov CONTEXT_RBX(%rax), %rbx
    mov CONTEXT_RBP(%rax), %rbp
    mov CONTEXT_R12(%rax), %r12
    mov CONTEXT_R13(%rax), %r13
    mov CONTEXT_R14(%rax), %r14
    mov CONTEXT_R15(%rax), %r15
    lea CONTEXT_RIP(%rax), %rsp     # RIP, CS, RFLAGS, RSP, SS lie here as IRETQ wants them
    mov CONTEXT_RAX(%rax), %rax
    iretq
1:  movb $1, CPU_IN_SCHEDULER(%rdi)
    mov CPU_SCHEDULER_STACK(%rdi), %rsp
    jmp reschedule
leave_window_end:
.set leave_window_size, leave_window_end - leave_window

# fn enter_scheduler(cpu: *mut Cpu): gives the vCPU to the scheduler until it picks the caller again.
.globl enter_scheduler
enter_scheduler:
    movb $1, CPU_IN_SCHEDULER(%rdi)
    mov CPU_CURRENT(%rdi), %rcx
    pop CONTEXT_RIP(%rcx)
    mov %rsp, CONTEXT_RSP(%rcx)
    movq $0x202, CONTEXT_RFLAGS(%rcx)
    mov %rbx, CONTEXT_RBX(%rcx)
    mov %rbp, CONTEXT_RBP(%rcx)
    mov %r12, CONTEXT_R12(%rcx)
    mov %r13, CONTEXT_R13(%rcx)
    mov %r14, CONTEXT_R14(%rcx)
    mov %r15, CONTEXT_R15(%rcx)
    mov CPU_SCHEDULER_STACK(%rdi), %rsp
    jmp reschedule

# fn start_scheduler(cpu: *mut Cpu) -> !: the scheduler for the first time.
.globl start_scheduler
start_scheduler:
    mov CPU_SCHEDULER_STACK(%rdi), %rsp
    jmp reschedule

# What the compiler calls. The string instructions are as fast as anything at these sizes.
.globl memcpy, memmove, memset, memcmp, bcmp
memmove:
    mov %rdi, %rax
    sub %rsi, %rax
    cmp %rdx, %rax
    jae memcpy
    mov %rdi, %rax
    mov %rdx, %rcx
    lea -1(%rdi,%rdx), %rdi
    lea -1(%rsi,%rdx), %rsi
    std
    rep movsb
    cld
    ret
memcpy:
    mov %rdi, %rax
    mov %rdx, %rcx
    rep movsb
    ret
memset:
    mov %rdi, %r8
    mov %esi, %eax
    mov %rdx, %rcx
    rep stosb
    mov %r8, %rax
    ret
memcmp:
bcmp:
    xor %eax, %eax
    xor %ecx, %ecx
1:  cmp %rdx, %rcx
    je 2f
    movzbl (%rdi,%rcx), %eax
    movzbl (%rsi,%rcx), %r8d
    inc %rcx
    sub %r8d, %eax
    jz 1b
2:  ret
