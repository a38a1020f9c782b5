//! The XDP program: loaded once, attached to interfaces, its maps shared with the shards.
//!
//! [`XdpProgram`] loads the committed eBPF object (`docs/ebpf.md` says how it is built) and attaches it through
//! `bpf_link`s only: the kernel detaches it when the process ends, however it ends. It never replaces a program that
//! somebody else has attached. [`XdpMaps`] is what shards write to: which four-tuples, listeners and tokens are ours,
//! and which AF_XDP sockets take their packets. [`Events`] is what the program says besides packets.

mod error;
mod maps;
mod mmap;
mod syscall;

pub use error::XdpError;
pub use maps::{CounterSnapshot, XdpMaps};
pub use syscall::TestRun;

use super::release::release;
use aya::maps::{Map, MapData, RingBuf};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use mptcp_common::event::Event;
use mptcp_common::maps::{PEERS_UNRULED, name};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The eBPF object, as `cargo xtask build-ebpf` made it from `mptcp-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../mptcp.bpf.o");

/// Where in the kernel the program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum XdpMode {
    /// In the driver, before the kernel makes a socket buffer of the packet.
    Native,
    /// After that ("SKB mode"): works with every driver, and gets super-segments whole.
    Generic,
}

impl XdpMode {
    /// "native" or "generic".
    pub fn as_str(self) -> &'static str {
        match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }
    fn flags(self) -> u32 {
        const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
        match self {
            XdpMode::Native => XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

/// Sizes of the maps, and limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpConfig {
    /// Most subflows at once, and slots of the telemetry array (64 octets each, allocated at once).
    pub subflows: u32,
    /// Most listeners at once.
    pub listeners: u32,
    /// Most tokens at once.
    pub tokens: u32,
    /// AF_XDP sockets: the sum of queues times shards over all interfaces.
    pub sockets: u32,
    /// Refusals of MP_JOIN with an unknown token that the program may send by itself, per second and CPU; beyond
    /// that it drops them. 0: user space gets all of them.
    pub refusals_per_second: u32,
    /// What becomes of peers that no prefix given to [`XdpMaps::insert_peer`] has:
    /// [`PEERS_UNRULED`] and so on. Without rules none is looked up.
    pub other_peers: u32,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            subflows: 1 << 18,
            listeners: 1024,
            tokens: 1 << 18,
            sockets: 1024,
            refusals_per_second: 1000,
            other_peers: PEERS_UNRULED,
        }
    }
}

/// The loaded program. Dropping it detaches it from all interfaces.
pub struct XdpProgram {
    links: XdpLinks,
    maps: Arc<XdpMaps>,
    events: Option<Events>,
    ebpf: Ebpf,
}

/// What keeps a program attached to interfaces, shared with the program.
#[derive(Clone, Default)]
pub struct XdpLinks(Arc<Mutex<BTreeMap<u32, OwnedFd>>>);

impl XdpLinks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, OwnedFd>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Detaches the program from all interfaces; gives how many there were.
    pub fn detach_all(&self) -> usize {
        let links = std::mem::take(&mut *self.lock());
        links.len()
    }
}

impl XdpProgram {
    /// Loads the program and makes its maps.
    ///
    /// # Errors
    /// [`XdpError::NotPermitted`] without `CAP_BPF` and `CAP_NET_ADMIN`; [`XdpError::TooOld`] before Linux 6.1;
    /// [`XdpError::Unsupported`] if the kernel lacks something; [`XdpError::Refused`] with the verifier's reason.
    pub fn load(config: &XdpConfig) -> Result<Self, XdpError> {
        Self::load_object(OBJECT, config)
    }

    /// As [`load`](Self::load), from another build of the object.
    ///
    /// # Errors
    /// As those of [`load`](Self::load).
    pub fn load_object(object: &[u8], config: &XdpConfig) -> Result<Self, XdpError> {
        // The verifier's log takes longer than the verification, so it is asked for its reasons only if it has any.
        match Self::load_with(object, config, VerifierLogLevel::STATS) {
            Err(XdpError::Refused(_)) => Self::load_with(object, config, VerifierLogLevel::VERBOSE),
            other => other,
        }
        .map_err(|error| error.on_kernel(&release()))
    }

    fn load_with(object: &[u8], config: &XdpConfig, log: VerifierLogLevel) -> Result<Self, XdpError> {
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(log)
            .override_global(name::REFUSALS_PER_SECOND, &config.refusals_per_second, true)
            .override_global(name::OTHER_PEERS, &config.other_peers, true)
            .map_max_entries(name::SUBFLOWS, config.subflows)
            .map_max_entries(name::TELEMETRY, config.subflows)
            .map_max_entries(name::LISTENERS, config.listeners)
            .map_max_entries(name::TOKENS, config.tokens)
            .map_max_entries(name::SOCKETS, config.sockets)
            .load(object)
            .map_err(XdpError::load)?;
        program(&mut ebpf)?.load().map_err(XdpError::program)?;
        let maps = Arc::new(XdpMaps::new(
            take(&mut ebpf, name::SUBFLOWS)?,
            take(&mut ebpf, name::LISTENERS)?,
            take(&mut ebpf, name::TOKENS)?,
            take(&mut ebpf, name::LOCALS)?,
            take(&mut ebpf, name::PEERS)?,
            take(&mut ebpf, name::INTERFACES)?,
            take(&mut ebpf, name::SOCKETS)?,
            take(&mut ebpf, name::COUNTERS)?,
            &take(&mut ebpf, name::PORTS)?,
            &take(&mut ebpf, name::TELEMETRY)?,
            config.subflows,
        )?);
        let events = ebpf.take_map(name::EVENTS).ok_or(XdpError::Object(name::EVENTS))?;
        let events = Events { ring: RingBuf::try_from(events).map_err(|_| XdpError::Object(name::EVENTS))? };
        Ok(Self { links: XdpLinks::default(), maps, events: Some(events), ebpf })
    }

    /// The maps, to be shared with the shards.
    pub fn maps(&self) -> Arc<XdpMaps> {
        Arc::clone(&self.maps)
    }

    /// The ring buffer of events; there is one, so only the first call gives it.
    pub fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }

    /// Attaches the program to an interface.
    ///
    /// # Errors
    /// [`XdpError::Occupied`] if another program is attached; [`XdpError::ModeUnsupported`] if the driver can't do
    /// it in this mode; [`XdpError::NoInterface`] if the interface is gone.
    pub fn attach(&mut self, interface: u32, mode: XdpMode) -> Result<(), XdpError> {
        if self.links.lock().contains_key(&interface) {
            return Err(XdpError::Occupied { interface, ours: true });
        }
        let fd = program(&mut self.ebpf)?.fd().map_err(XdpError::program)?.as_fd().as_raw_fd();
        let link = syscall::link_create(fd, interface, mode.flags())
            .map_err(|error| XdpError::attach(error, interface, mode))?;
        self.links.lock().insert(interface, link);
        Ok(())
    }

    /// Detaches the program from an interface, if it is attached there.
    pub fn detach(&mut self, interface: u32) {
        if let Some(link) = self.links.lock().remove(&interface) {
            // An error: the interface is gone, and the link with it.
            let _ = syscall::link_detach(link.as_fd());
        }
    }

    /// Indexes of the interfaces that the program is attached to. An interface that is gone stays here until it is
    /// detached.
    pub fn attached(&self) -> impl Iterator<Item = u32> + '_ {
        let attached: Vec<u32> = self.links.lock().keys().copied().collect();
        attached.into_iter()
    }

    /// What keeps the program attached, for another thread to detach it.
    pub fn links(&self) -> XdpLinks {
        self.links.clone()
    }

    /// Runs the program on a packet without any interface (`BPF_PROG_TEST_RUN`), `repeat` times. The packet counts
    /// as received on the loopback interface, queue 0. With `linear` less than the packet's length the rest is in
    /// further buffers, as with large packets from a network card.
    ///
    /// # Errors
    /// What the system call says.
    pub fn test_run(&mut self, packet: &[u8], linear: usize, repeat: u32) -> Result<TestRun, XdpError> {
        let fd = program(&mut self.ebpf)?.fd().map_err(XdpError::program)?.as_fd().as_raw_fd();
        syscall::test_run(fd, packet, linear, repeat)
            .map_err(|source| XdpError::System { call: "test run", source })
    }

    /// Octets of machine code that the kernel's compiler made, and instructions that the verifier went through.
    ///
    /// # Errors
    /// What the system call says.
    pub fn size(&mut self) -> Result<ProgramSize, XdpError> {
        let info = program(&mut self.ebpf)?.info().map_err(XdpError::program)?;
        Ok(ProgramSize {
            machine_code: info.size_jitted(),
            instructions: info.size_translated().unwrap_or_default() / 8,
            verified: info.verified_instruction_count().unwrap_or_default(),
        })
    }
}

/// How large the program is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgramSize {
    /// Octets of machine code; 0 if the kernel interprets it.
    pub machine_code: u32,
    /// Instructions of eBPF.
    pub instructions: u32,
    /// Instructions that the verifier looked at; 0 if the kernel doesn't say.
    pub verified: u32,
}

/// Events of the XDP program. Becomes readable (`poll`, `epoll`) when there are some.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    /// The next event, if any.
    #[allow(clippy::should_implement_trait)] // not an iterator: there may be more later
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            if let Some(event) = Event::read(&item) {
                return Some(event);
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, XdpError> {
    ebpf.program_mut(name::PROGRAM)
        .and_then(|program| <&mut Xdp>::try_from(program).ok())
        .ok_or(XdpError::Object(name::PROGRAM))
}

/// The file descriptor of a map.
fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, XdpError> {
    let Some(
        Map::HashMap(data)
        | Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::XskMap(data)
        | Map::LpmTrie(data),
    ) = ebpf.take_map(name)
    else {
        return Err(XdpError::Object(name));
    };
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source: io::Error| XdpError::System { call: "dup", source })
}
