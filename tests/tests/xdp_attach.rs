//! The XDP program on interfaces: attaching, detaching, and what stands in the way.

use mptcp_common::headers::{self, Packet, TCP_ACK, TCP_RST};
use mptcp_common::maps::{LOCAL_OWN, LocalKey};
use mptcp_datapath::xdp::{XdpConfig, XdpError, XdpMode, XdpProgram};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::require_root;
use mptcp_tests::xdp::Frame;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

fn index(name: &str) -> u32 {
    let name = CString::new(name).unwrap();
    // SAFETY: a string that ends in a zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

fn small() -> XdpConfig {
    XdpConfig {
        subflows: 64,
        listeners: 8,
        tokens: 64,
        sockets: 8,
        refusals_per_second: 100,
        ..XdpConfig::default()
    }
}

#[test]
fn a_program_is_there_until_it_is_dropped_in_either_mode_and_with_large_packets() {
    require_root!();
    let lab = Lab::new().unwrap();
    for (mtu, mode) in
        [(1500, XdpMode::Generic), (1500, XdpMode::Native), (9000, XdpMode::Generic), (9000, XdpMode::Native)]
    {
        lab.set_mtu(mtu).unwrap();
        let mut program = lab.namespace(Side::Left).run(|| {
            let mut program = XdpProgram::load(&small()).unwrap();
            for number in 1..=2 {
                program.attach(index(&Side::Left.interface(number)), mode).unwrap();
            }
            program
        });
        assert_eq!(lab.attached(Side::Left).unwrap().len(), 2, "{mode:?}");
        let first = program.attached().next().unwrap();
        program.detach(first);
        assert_eq!(lab.attached(Side::Left).unwrap().len(), 1);
        drop(program);
        assert!(lab.attached(Side::Left).unwrap().is_empty());
    }
}

#[test]
fn a_foreign_program_is_never_replaced() {
    require_root!();
    let lab = Lab::new().unwrap();
    let left = lab.namespace(Side::Left);
    let name = Side::Left.interface(1);
    let foreign = left.foreign_xdp(&name).unwrap();
    left.run(|| {
        let mut program = XdpProgram::load(&small()).unwrap();
        for mode in [XdpMode::Generic, XdpMode::Native] {
            let error = program.attach(index(&name), mode).unwrap_err();
            assert!(matches!(error, XdpError::Occupied { ours: false, .. }), "{error:?}");
            assert!(error.to_string().contains("xdp off"), "{error}");
        }
        program.attach(index(&Side::Left.interface(2)), XdpMode::Generic).unwrap();
        let error = program.attach(index(&Side::Left.interface(2)), XdpMode::Generic).unwrap_err();
        assert!(matches!(error, XdpError::Occupied { ours: true, .. }), "{error:?}");
    });
    assert!(left.has_xdp(&name).unwrap());
    drop(foreign);
}

#[test]
fn an_interface_that_is_gone_is_an_error_and_then_none() {
    require_root!();
    let lab = Lab::new().unwrap();
    let left = lab.namespace(Side::Left);
    let name = Side::Left.interface(1);
    left.run(|| {
        let mut program = XdpProgram::load(&small()).unwrap();
        let index = index(&name);
        program.attach(index, XdpMode::Generic).unwrap();
        left.delete_interface(&name).unwrap();
        program.detach(index);
        let error = program.attach(index, XdpMode::Generic).unwrap_err();
        assert!(matches!(error, XdpError::NoInterface(gone) if gone == index), "{error:?}");
    });
}

#[test]
fn a_join_with_an_unknown_token_is_answered_over_the_wire() {
    require_root!();
    let lab = Lab::new().unwrap();
    for family in [Family::Ipv4, Family::Ipv6] {
        let local = Side::Left.socket(1, family, 8080);
        let remote = Side::Right.socket(1, family, 40_000);
        let program = lab.namespace(Side::Left).run(|| {
            let mut program = XdpProgram::load(&small()).unwrap();
            program.maps().insert_listener(local, 0, 1).unwrap();
            program.maps().set_local(LocalKey::new(local.ip().into(), 0), LOCAL_OWN).unwrap();
            program.attach(index(&Side::Left.interface(1)), XdpMode::Generic).unwrap();
            program
        });
        let answer = lab.namespace(Side::Right).run(|| {
            let wire = Wire::new(&Side::Right.interface(1));
            wire.send(&Frame::join(remote, local, 0xdead_beef).build());
            wire.receive(Duration::from_secs(5), |packet| match headers::decode(&packet) {
                Ok(Packet::Tcp(headers)) => {
                    headers.src_port == 8080
                        && headers.dst_port == 40_000
                        && headers.flags == TCP_RST | TCP_ACK
                }
                _ => false,
            })
        });
        assert!(answer.is_some(), "no RST over {family:?}");
        drop(program);
    }
}

/// A packet socket on one interface.
struct Wire(OwnedFd);

impl Wire {
    fn new(interface: &str) -> Self {
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a socket and its address, both valid for the calls.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(every));
            assert!(fd >= 0);
            let socket = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = every;
            address.sll_ifindex = index(interface) as i32;
            let len = size_of::<libc::sockaddr_ll>() as u32;
            assert_eq!(libc::bind(fd, (&raw const address).cast(), len), 0);
            let patience = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
            let len = size_of::<libc::timeval>() as u32;
            let option = (&raw const patience).cast();
            assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, option, len), 0);
            Self(socket)
        }
    }
    fn send(&self, packet: &[u8]) {
        // SAFETY: as many octets as there are.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(sent, packet.len() as isize);
    }
    fn receive(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        let mut packet = vec![0; 2048];
        while Instant::now() < deadline {
            // SAFETY: as many octets as there is room for.
            let len = unsafe { libc::recv(self.0.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
            if len > 0 && wanted(&packet[..len as usize]) {
                return Some(packet[..len as usize].to_vec());
            }
        }
        None
    }
}
