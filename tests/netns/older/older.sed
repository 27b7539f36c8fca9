# The contract as an older build might have had it: what is no longer there, stands elsewhere or was larger must be carried
# over by its name all the same.
s/\(#define MOSE_STEER_VERSION\) [0-9]*u/\1 1u/
/^	__u32 silent;/i\	__u64 of_old;
s/\(MOSE_STEER_R_MAX =\) [0-9]*/\1 19/
/^	__u32 host_ifindex;/i\	__u32 of_old;
/^	enum mose_uplink_state state;/a\	__u32 of_old[2];
s/drop_loop, drop_rewrite, drop_mtu/drop_mtu, drop_of_old, drop_rewrite, drop_loop/
s/^MOSE_STEER_ASSERT(.*//
