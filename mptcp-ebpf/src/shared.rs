//! The maps, in the names and layouts that `mptcp_common::maps` fixes. The loader sets the sizes.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, XskMap};
use mptcp_common::counter::{COUNTERS as COUNT, Counter};
use mptcp_common::maps::{
    FragmentKey, FragmentValue, INTERFACE_TABLE, InterfaceValue, ListenerKey, ListenerValue, LocalKey,
    LocalValue, PeerKey, PortValue, Refusals, SubflowKey, SubflowValue, Telemetry, TokenValue,
};

// Hash maps without preallocation: an element is never reused while a program may still look at it, and an
// idle host pays for none.
#[map]
pub static SUBFLOWS: HashMap<SubflowKey, SubflowValue> =
    HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map]
pub static LISTENERS: HashMap<ListenerKey, ListenerValue> =
    HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
#[map]
pub static TOKENS: HashMap<u32, TokenValue> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map]
pub static LOCALS: HashMap<LocalKey, LocalValue> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
#[map]
pub static PEERS: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::with_max_entries(1024, 0);
#[map]
pub static INTERFACES: Array<InterfaceValue> = Array::with_max_entries(INTERFACE_TABLE, 0);
#[map]
pub static PORTS: Array<PortValue> = Array::with_max_entries(1 << 16, BPF_F_MMAPABLE);
#[map]
pub static SOCKETS: XskMap = XskMap::with_max_entries(1024, 0);
#[map]
pub static TELEMETRY: Array<Telemetry> = Array::with_max_entries(1 << 18, BPF_F_MMAPABLE);
#[map]
pub static COUNTERS: PerCpuArray<[u64; COUNT]> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static REFUSALS: PerCpuArray<Refusals> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// Refusals of MP_JOIN that each CPU may send per second; 0: user space gets them all.
#[unsafe(no_mangle)]
pub static REFUSALS_PER_SECOND: Global<u32> = Global::new(1000);

/// The rule for peers that no prefix in `PEERS` has.
#[unsafe(no_mangle)]
pub static OTHER_PEERS: Global<u32> = Global::new(0);

/// The key of a peer as the trie wants it.
#[inline(always)]
pub const fn trie_key(key: PeerKey) -> Key<[u32; 5]> {
    let words = key.address.0;
    Key::new(key.length, [key.family, words[0], words[1], words[2], words[3]])
}

/// This CPU's counters.
#[derive(Clone, Copy)]
pub struct Counts(*mut [u64; COUNT]);

impl Counts {
    /// This CPU's counters; they are always there, but the verifier wants to see it checked.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        COUNTERS.get_ptr_mut(0).map(Self)
    }
    /// Counts a packet that goes up, by the number of its kind.
    #[inline(always)]
    pub fn add_up(self, kind: usize) {
        let at = kind.wrapping_sub(1);
        if at < COUNT {
            // SAFETY: as below.
            unsafe { *self.0.cast::<u64>().add(at) += 1 };
        }
    }
    /// Counts one packet.
    #[inline(always)]
    pub fn add(self, counter: Counter) {
        let at = counter as usize;
        if at < COUNT {
            // SAFETY: the element is this CPU's own, no other program runs on it meanwhile, and `at` is
            // inside.
            unsafe { *self.0.cast::<u64>().add(at) += 1 };
        }
    }
}
