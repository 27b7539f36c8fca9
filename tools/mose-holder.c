/* SPDX-License-Identifier: MIT */
/*
 * mose-holder: keeps the tap of a hold queue open (descriptor 3), and with it the packets in the tap, when the agent that
 * holds them dies. Does nothing else: whoever adopts the queue takes the descriptor and kills this process.
 */
#include "confine.h"

static const int calls[] = {
#ifdef SYS_pause
	SYS_pause,
#endif
	SYS_ppoll, SYS_rt_sigreturn, SYS_restart_syscall, SYS_exit_group,
};

int main(void)
{
	/* Where that fails the packets are kept all the same. */
	(void)confine(calls, sizeof calls / sizeof calls[0]);
	for (;;)
		pause();
}
