/* Hides from Python programs what a plain processor does not have: AVX-512, AMX, AVX-VNNI, and what came with them.

   Intel's processors can be told to refuse the instruction CPUID to a program (arch_prctl(ARCH_SET_CPUID)). It then gets a
   SIGSEGV, and here the answer without those bits. Loaded by LD_PRELOAD; see plain.py. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

typedef int (*sigaction_fn)(int, const struct sigaction *, struct sigaction *);

static sigaction_fn real_sigaction;
static struct sigaction theirs; /* what the program wants of other faults */
static bool hides;

static void allow_cpuid(unsigned long allowed) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void hide(unsigned leaf, unsigned subleaf, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
    if (leaf == 7 && subleaf == 0) {
        *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX-512 F to VL */
        *c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                 /* AVX-512 VBMI to VPOPCNTDQ */
        *c &= ~(BIT(8) | BIT(9) | BIT(10));                                                     /* GFNI, VAES, VPCLMULQDQ */
        *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(23));                                            /* AVX-512 4VNNIW to FP16 */
        *d &= ~(BIT(22) | BIT(24) | BIT(25));                                                   /* AMX */
    } else if (leaf == 7 && subleaf == 1) {
        *a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        *d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8 to AVX10 */
    } else if (leaf == 0xd && subleaf == 0) {
        *a &= BIT(0) | BIT(1) | BIT(2) | BIT(9); /* states of x87, SSE, AVX and PKRU */
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    /* A refused instruction has no address; a page that cannot be read has one, and must not be read here. */
    if (info->si_code == SI_KERNEL && code[0] == 0x0f && code[1] == 0xa2) {
        unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX], a, b, c, d;
        allow_cpuid(1);
        __cpuid_count(leaf, subleaf, a, b, c, d);
        allow_cpuid(0);
        hide(leaf, subleaf, &a, &b, &c, &d);
        registers[REG_RAX] = a;
        registers[REG_RBX] = b;
        registers[REG_RCX] = c;
        registers[REG_RDX] = d;
        registers[REG_RIP] += 2;
    } else if (theirs.sa_flags & SA_SIGINFO) {
        theirs.sa_sigaction(number, info, context);
    } else if (theirs.sa_handler != SIG_DFL && theirs.sa_handler != SIG_IGN) {
        theirs.sa_handler(number);
    } else {
        struct sigaction usual = {.sa_handler = SIG_DFL};
        real_sigaction(SIGSEGV, &usual, NULL); /* it faults again, and ends as it would have */
    }
}

static void find_sigaction(void) {
    if (!real_sigaction) real_sigaction = (sigaction_fn)dlsym(RTLD_NEXT, "sigaction");
}

int sigaction(int number, const struct sigaction *wanted, struct sigaction *before) {
    find_sigaction();
    if (number != SIGSEGV || !hides) return real_sigaction(number, wanted, before);
    if (before) *before = theirs;
    if (wanted) theirs = *wanted;
    return 0;
}

static bool is_python(void) {
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0) return false;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && strncmp(name + 1, "python", 6) == 0;
}

__attribute__((constructor)) static void begin(void) {
    if (!is_python()) return; /* others need no plain processor, and some have a use for SIGSEGV */
    find_sigaction();
    /* On the stack that there is: one for signals may be too small for this, or gone when some library asks late. */
    struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    real_sigaction(SIGSEGV, &ours, NULL);
    hides = true;
    allow_cpuid(0);
}
