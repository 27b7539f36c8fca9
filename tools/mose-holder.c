/* SPDX-License-Identifier: MIT */
/*
 * mose-holder: keeps the tap of a hold queue open (descriptor 3), and with it the packets in the tap, when the agent that
 * holds them dies. Does nothing else: whoever adopts the queue takes the descriptor and kills this process.
 */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
