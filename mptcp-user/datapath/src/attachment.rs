//! An interface in use: program attached, receive sockets in the program's map, transmit socket open.

use super::Error;
use super::af_xdp::{Bind, BindError, CopyMode, Frames, Socket, Umem};
use super::interface::{AttachMode, InterfaceReport, SINGLE_BUFFER_MTU};
use super::netlink::Netlink;
use super::occupant::Occupant;
use super::transmit::Transmitter;
use super::xdp::{XdpError, XdpMode, XdpProgram};
use mptcp_proto::Instant;
use std::sync::Arc;

/// Places in the program's map of sockets, given out in runs.
pub struct SocketPlaces {
    taken: Vec<bool>,
}

impl SocketPlaces {
    /// None taken yet.
    pub fn new(places: u32) -> Self {
        Self { taken: vec![false; places as usize] }
    }

    /// The first run of `count` free places.
    fn take(&mut self, count: u32) -> Option<u32> {
        let count = count as usize;
        let start = (0..(self.taken.len() + 1).checked_sub(count)?)
            .find(|start| self.taken[*start..start + count].iter().all(|taken| !taken))?;
        self.taken[start..start + count].fill(true);
        Some(start as u32)
    }

    fn give_back(&mut self, start: u32, count: u32) {
        if let Some(run) = self.taken.get_mut(start as usize..(start + count) as usize) {
            run.fill(false);
        }
    }
}

/// Frames that all queues of an interface have together until packets come, and each of them at least: a
/// super-segment's.
const IDLE_FRAMES: u32 = 96;
const IDLE_QUEUE: u32 = 20;
/// Frames of a UMEM that is made for interfaces that appear later.
const LATER_FRAMES: u32 = 4096;
/// Interfaces that are expected to be busy at the same time, when there are several from the beginning.
const BUSY_INTERFACES: usize = 2;

/// The UMEMs that sockets share.
#[derive(Default)]
pub struct Pools {
    pools: Vec<Arc<Frames>>,
    /// Frames of the first one.
    first: u32,
}

impl Pools {
    /// For interfaces with so many queues each, which are to be brought into use now.
    pub fn expect(&mut self, queues: &[u32]) {
        let busy = queues.iter().take(BUSY_INTERFACES).map(|queues| queues * frames_per_queue(*queues));
        let idle = queues.iter().skip(BUSY_INTERFACES).map(|queues| queues * idle_per_queue(*queues));
        self.first = busy.chain(idle).sum();
    }

    /// A UMEM with so many frames to spare, and some more for who needs them.
    fn with(&mut self, frames: u32) -> std::io::Result<Arc<Frames>> {
        let has_room = |pool: &&Arc<Frames>| {
            let (free, all) = pool.count();
            free >= frames as usize + all.min(LATER_FRAMES as usize) / 4
        };
        if let Some(pool) = self.pools.iter().find(has_room) {
            return Ok(pool.clone());
        }
        self.add(frames)
    }

    fn add(&mut self, frames: u32) -> std::io::Result<Arc<Frames>> {
        self.pools.retain(|pool| pool.count().0 < pool.count().1);
        let size = if self.pools.is_empty() { self.first.max(LATER_FRAMES) } else { LATER_FRAMES };
        let pool = Arc::new(Frames::new(size.max(frames + LATER_FRAMES / 4))?);
        self.pools.push(pool.clone());
        Ok(pool)
    }
}

/// Frames for each of `queues` receive queues until packets come.
fn idle_per_queue(queues: u32) -> u32 {
    (IDLE_FRAMES / queues.max(1)).max(IDLE_QUEUE)
}

/// How interfaces are brought into use.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How programs are attached.
    pub mode: AttachMode,
    /// Without copying where the mode is native and the driver can.
    pub zero_copy: bool,
    /// Whether the kernel's AF_XDP takes packets of several buffers.
    pub multi_buffer: bool,
}

/// An interface in use.
pub struct Attachment {
    /// Interface index.
    pub index: u32,
    /// Name, mode and the reason for it.
    pub report: InterfaceReport,
    /// Our link-layer address there.
    pub mac: [u8; 6],
    /// Whether packets can flow: up, and with a carrier.
    pub up: bool,
    /// One socket per receive queue.
    pub sockets: Vec<Socket>,
    /// The sending side.
    pub transmitter: Transmitter,
    /// When to try sending again after the interface's queue was full.
    pub retry: Option<Instant>,
    /// Waits for the transmit socket to become writable.
    pub blocked: bool,
    places: (u32, u32),
    multi_buffer: bool,
}

/// Frames for each of `queues` receive queues: enough for a burst of super-segments (17 frames each), within reason.
fn frames_per_queue(queues: u32) -> u32 {
    match queues {
        0..=2 => 4096,
        3..=8 => 2048,
        _ => 1024,
    }
}

/// Which program keeps ours from an interface: one on the interface itself, or one on an interface above it.
fn occupied_by(index: u32) -> Option<String> {
    let links = Netlink::new().and_then(|mut netlink| netlink.links()).ok()?;
    let link = links.iter().find(|link| link.index == index)?;
    if let Some(program) = link.xdp_program {
        return Some(Occupant::of(program).reason(&link.name, link.xdp_mode));
    }
    let upper = links.iter().find(|upper| upper.below == Some(index) && upper.xdp_program.is_some())?;
    let why = Occupant::of(upper.xdp_program?).reason(&upper.name, upper.xdp_mode);
    Some(format!(
        "the kernel takes an XDP program there only while {}, which is on top of it, has none. Of {}: {why}",
        upper.name, upper.name
    ))
}

fn bind_failed(interface: &str, error: BindError) -> Error {
    match error {
        BindError::NoAfXdp => Error::NoAfXdp,
        BindError::Privileges => Error::Privileges { missing: vec!["CAP_NET_RAW"] },
        source => Error::Socket { interface: interface.into(), source },
    }
}

/// A socket for one of `queues` queues, with frames of a UMEM that it shares.
fn bind_copying(
    pools: &mut Pools,
    interface: u32,
    (queue, queues): (u32, u32),
    multi_buffer: bool,
) -> Result<Socket, BindError> {
    let idle = idle_per_queue(queues);
    let bind = Bind {
        interface,
        queue,
        receive_frames: 0..frames_per_queue(queues),
        transmit_frames: 0..0,
        copy: CopyMode::Copy,
        multi_buffer,
    };
    let pool = pools.with(idle).map_err(BindError::Memory)?;
    match Socket::bind_shared(&pool, idle, &bind) {
        // The socket to share with may belong to an interface that has just gone.
        Err(BindError::Refused { .. } | BindError::Io(..)) if queue == 0 => {
            let pool = pools.add(idle).map_err(BindError::Memory)?;
            Socket::bind_shared(&pool, idle, &bind)
        }
        other => other,
    }
}

impl Attachment {
    /// Brings an interface into use. What the report says about mode and reason is brought up to date.
    pub fn new(
        program: &mut XdpProgram,
        (places, pools): (&mut SocketPlaces, &mut Pools),
        mut report: InterfaceReport,
        mac: [u8; 6],
        manner: Manner,
    ) -> Result<Self, Error> {
        let (index, name) = (report.index, report.name.clone());
        let failed = |source: XdpError| {
            let occupied = matches!(source, XdpError::Occupied { ours: false, .. });
            match occupied.then(|| occupied_by(index)).flatten() {
                Some(reason) => Error::InterfaceUnusable { name: name.clone(), reason },
                None => Error::Xdp { interface: Some(name.clone()), source },
            }
        };
        let transmitter = Transmitter::new(index, report.super_segments)
            .map_err(|source| Error::Transmit { interface: name.clone(), source })?;
        let native = report.mode.as_deref() == Some(XdpMode::Native.as_str());
        if native {
            match program.attach(index, XdpMode::Native) {
                Err(XdpError::ModeUnsupported { source, .. })
                    if manner.mode == AttachMode::Auto && manner.multi_buffer =>
                {
                    report.mode = Some(XdpMode::Generic.as_str().into());
                    report.reason = format!("the driver refused native XDP: {source}");
                    program.attach(index, XdpMode::Generic).map_err(failed)?;
                }
                result => result.map_err(failed)?,
            }
        } else {
            program.attach(index, XdpMode::Generic).map_err(failed)?;
        }
        // Until the maps are filled, everything goes to the kernel.
        let sockets = Self::sockets(pools, &mut report, manner.zero_copy && native, manner.multi_buffer);
        let maps = program.maps();
        let mut run = None;
        let result = sockets.and_then(|sockets| {
            let queues = sockets.len() as u32;
            let start = places.take(queues).ok_or(XdpError::Full("sockets")).map_err(failed)?;
            run = Some((start, queues));
            for (place, socket) in (start..).zip(&sockets) {
                maps.set_socket(place, std::os::fd::AsFd::as_fd(socket)).map_err(failed)?;
            }
            maps.set_interface(index, start, queues, 1).map_err(failed)?;
            Ok((sockets, (start, queues)))
        });
        match result {
            Ok((sockets, places)) => Ok(Self {
                index,
                report,
                mac,
                up: true,
                sockets,
                transmitter,
                retry: None,
                blocked: false,
                places,
                multi_buffer: manner.multi_buffer,
            }),
            Err(error) => {
                program.detach(index);
                if let Some((start, queues)) = run {
                    places.give_back(start, queues);
                }
                Err(error)
            }
        }
    }

    /// A socket for each receive queue.
    fn sockets(
        pools: &mut Pools,
        report: &mut InterfaceReport,
        zero_copy: bool,
        multi_buffer: bool,
    ) -> Result<Vec<Socket>, Error> {
        if zero_copy && let Some(sockets) = Self::without_copying(report, multi_buffer)? {
            return Ok(sockets);
        }
        let queues = report.queues.max(1);
        let mut sockets = Vec::with_capacity(queues as usize);
        for queue in 0..queues {
            match bind_copying(pools, report.index, (queue, queues), multi_buffer) {
                Ok(socket) => sockets.push(socket),
                // Queues that were made but are not in use.
                Err(BindError::Refused { .. }) if queue > 0 => break,
                Err(error) => return Err(bind_failed(&report.name, error)),
            }
        }
        report.queues = sockets.len() as u32;
        Ok(sockets)
    }

    /// Sockets into whose memory the device writes; they share one UMEM. `None`: the driver can't do it.
    fn without_copying(
        report: &mut InterfaceReport,
        multi_buffer: bool,
    ) -> Result<Option<Vec<Socket>>, Error> {
        let name = report.name.clone();
        let queues = report.queues.max(1);
        let frames = frames_per_queue(queues);
        let umem =
            Umem::new(frames * queues).map_err(|error| bind_failed(&name, BindError::Memory(error)))?;
        let umem = Arc::new(umem);
        let mut sockets: Vec<Socket> = Vec::with_capacity(queues as usize);
        for queue in 0..queues {
            let bind = |multi_buffer| Bind {
                interface: report.index,
                queue,
                receive_frames: queue * frames..(queue + 1) * frames,
                transmit_frames: 0..0,
                copy: CopyMode::ZeroCopy,
                multi_buffer,
            };
            let refused = |socket: &Result<Socket, BindError>| {
                matches!(socket, Err(BindError::NotSupported(_) | BindError::Refused { .. }))
            };
            let mut socket = Socket::bind(&umem, sockets.first(), &bind(multi_buffer));
            if sockets.is_empty() && refused(&socket) {
                // Some drivers (virtio) have zero-copy for packets of one buffer only, as all are in native mode with
                // a usual MTU.
                if multi_buffer && report.mtu <= SINGLE_BUFFER_MTU {
                    socket = Socket::bind(&umem, None, &bind(false));
                }
                if refused(&socket) {
                    report.reason.push_str("; the driver has no zero-copy");
                    return Ok(None);
                }
            }
            match socket {
                Ok(socket) => sockets.push(socket),
                // Queues that were made but are not in use.
                Err(BindError::Refused { .. }) if queue > 0 => break,
                Err(error) => return Err(bind_failed(&name, error)),
            }
        }
        report.reason.push_str("; packets arrive without copying");
        report.queues = sockets.len() as u32;
        Ok(Some(sockets))
    }

    /// The interface has so many receive queues now: those without a socket get one. The kernel lets nobody
    /// take a queue away that has one. Gives the number of the first new socket.
    pub fn add_queues(
        &mut self,
        (places, pools): (&mut SocketPlaces, &mut Pools),
        program: &XdpProgram,
        queues: u32,
    ) -> Result<usize, Error> {
        let name = &self.report.name;
        let failed = |source: XdpError| Error::Xdp { interface: Some(name.clone()), source };
        let before = self.sockets.len();
        for queue in before as u32..queues {
            match bind_copying(pools, self.index, (queue, queues), self.multi_buffer) {
                Ok(socket) => self.sockets.push(socket),
                Err(BindError::Refused { .. }) => break,
                Err(error) => {
                    self.sockets.truncate(before);
                    return Err(bind_failed(name, error));
                }
            }
        }
        let count = self.sockets.len() as u32;
        if self.sockets.len() == before {
            return Ok(before);
        }
        let maps = program.maps();
        let start = places.take(count).ok_or(XdpError::Full("sockets")).map_err(failed)?;
        // The sockets are in both runs of places until the program is told of the new one.
        let told = (start..)
            .zip(&self.sockets)
            .try_for_each(|(place, socket)| maps.set_socket(place, std::os::fd::AsFd::as_fd(socket)));
        if let Err(error) = told.and_then(|()| maps.set_interface(self.index, start, count, 1)) {
            places.give_back(start, count);
            self.sockets.truncate(before);
            return Err(failed(error));
        }
        let (old, old_count) = std::mem::replace(&mut self.places, (start, count));
        for place in old..old + old_count {
            let _ = maps.clear_socket(place);
        }
        places.give_back(old, old_count);
        self.report.queues = count;
        Ok(before)
    }

    /// Attaches the program again, in the same mode, after somebody has detached it.
    pub fn attach_again(&self, program: &mut XdpProgram) -> Result<(), XdpError> {
        program.detach(self.index);
        let native = self.report.mode.as_deref() == Some(XdpMode::Native.as_str());
        program.attach(self.index, if native { XdpMode::Native } else { XdpMode::Generic })
    }

    /// Takes the interface out of use.
    pub fn remove(self, program: &mut XdpProgram, places: &mut SocketPlaces) {
        let maps = program.maps();
        if let Err(error) = maps.remove_interface(self.index) {
            tracing::warn!("taking {} out of use: {error}", self.report.name);
        }
        program.detach(self.index);
        drop(self.sockets);
        for place in self.places.0..self.places.0 + self.places.1 {
            // The socket has left the map by itself; this is for kernels where it leaves late.
            let _ = maps.clear_socket(place);
        }
        places.give_back(self.places.0, self.places.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_places_are_given_out_in_runs_and_used_again() {
        let mut places = SocketPlaces::new(8);
        assert_eq!((places.take(3), places.take(4), places.take(2)), (Some(0), Some(3), None));
        places.give_back(0, 3);
        assert_eq!((places.take(4), places.take(2), places.take(1)), (None, Some(0), Some(2)));
    }
}
