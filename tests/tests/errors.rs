//! Faults before data flows: each case ends in an error that names the cause and the remedy, with the
//! documented exit code, without a panic, and with nothing attached.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, assert_fails};
use mptcp_tests::process::{Process, for_anyone, mptcp_binary};
use mptcp_tests::require_root;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_refused_connection_is_called_refused() {
    require_root!();
    let lab = Lab::new().unwrap();
    for family in Family::BOTH {
        let start = Instant::now();
        let finished = ours::connect(&lab, family, &[]).unwrap().finish(PATIENCE).unwrap();
        assert_fails(
            &lab,
            Side::Left,
            &finished,
            3,
            &["refused", &Side::Right.socket(1, family, 5000).to_string()],
        );
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_in_time() {
    require_root!();
    let lab = Lab::new().unwrap();
    // The address is on the link, and the neighbour is known, but nobody takes what is sent to it.
    lab.left.ip("neighbour add 10.77.1.9 lladdr 02:00:00:00:00:09 dev left1").unwrap();
    let start = Instant::now();
    let finished = ours::run(&lab, Side::Left, &["connect", "--timeout", "2", "10.77.1.9:5000"]).unwrap();
    assert_fails(&lab, Side::Left, &finished, 3, &["10.77.1.9:5000"]);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

#[test]
fn a_neighbour_that_does_not_exist_and_a_network_without_route_are_named() {
    require_root!();
    let lab = Lab::new().unwrap();
    let finished = ours::run(&lab, Side::Left, &["connect", "--timeout", "5", "10.77.1.9:5000"]).unwrap();
    assert_fails(&lab, Side::Left, &finished, 3, &["10.77.1.9"]);
    for far in ["198.51.100.1:5000", "[2001:db8::1]:5000"] {
        let finished = ours::run(&lab, Side::Left, &["connect", "--timeout", "5", far]).unwrap();
        assert_fails(&lab, Side::Left, &finished, 3, &["route", far]);
    }
}

#[test]
fn a_name_that_does_not_exist_is_named() {
    require_root!();
    let lab = Lab::new().unwrap();
    let finished =
        ours::run(&lab, Side::Left, &["connect", "--timeout", "5", "no-such-host.invalid:5000"]).unwrap();
    assert_fails(&lab, Side::Left, &finished, 3, &["no-such-host.invalid"]);
}

#[test]
fn without_root_the_error_says_what_is_needed() {
    require_root!();
    let lab = Lab::new().unwrap();
    let program = for_anyone(mptcp_binary()).unwrap();
    for words in [&["listen", "5000"][..], &["connect", "10.77.1.2:5000"]] {
        let mut command = lab.left.command_as(&program, Some(65534));
        let finished = Process::start(command.args(words), true).unwrap().finish(PATIENCE).unwrap();
        assert_fails(&lab, Side::Left, &finished, 1, &["root", "CAP_"]);
    }
}

#[test]
fn a_port_of_the_kernel_is_not_taken_over() {
    require_root!();
    let lab = Lab::new().unwrap();
    for family in Family::BOTH {
        let _listener =
            kernel::listen(&lab.right, Protocol::Tcp, SocketAddr::new(family.any(), 5000)).unwrap();
        let address = SocketAddr::new(family.any(), 5000).to_string();
        let finished = ours::run(&lab, Side::Right, &["listen", &address]).unwrap();
        assert_fails(&lab, Side::Right, &finished, 1, &["5000", "in use"]);
    }
}

#[test]
fn the_kernel_can_not_take_a_port_of_ours() {
    require_root!();
    let lab = Lab::new().unwrap();
    let listener = ours::listen(&lab, &[]).unwrap();
    for family in Family::BOTH {
        let taken = kernel::listen(&lab.right, Protocol::Tcp, Side::Right.socket(1, family, 5000));
        assert!(format!("{:#}", taken.unwrap_err()).contains("in use"));
    }
    listener.signal(libc::SIGINT);
    let finished = listener.finish(PATIENCE).unwrap();
    assert_fails(&lab, Side::Right, &finished, 130, &[]);
    // And with the process goes the reservation.
    kernel::listen(&lab.right, Protocol::Tcp, Side::Right.socket(1, Family::Ipv4, 5000)).unwrap();
}

#[test]
fn an_interface_that_can_not_be_used_is_named_with_the_reason() {
    require_root!();
    let lab = Lab::new().unwrap();
    lab.right.ip("link add bare type veth peer name bare-peer").unwrap();
    lab.right.set_up("bare", true).unwrap();
    lab.right.set_up("bare-peer", true).unwrap();
    lab.right.ip("address flush dev bare").unwrap();
    let finished = ours::run(&lab, Side::Right, &["listen", "-i", "bare", "5000"]).unwrap();
    assert_fails(&lab, Side::Right, &finished, 1, &["bare", "address"]);
    let finished = ours::run(&lab, Side::Right, &["listen", "-i", "nothing0", "5000"]).unwrap();
    assert_fails(&lab, Side::Right, &finished, 1, &["nothing0"]);
    lab.right.set_up("right2", false).unwrap();
    let finished = ours::run(&lab, Side::Right, &["listen", "-i", "right2", "5000"]).unwrap();
    assert_fails(&lab, Side::Right, &finished, 1, &["right2", "down"]);
}

#[test]
fn an_address_of_another_host_can_not_be_listened_on() {
    require_root!();
    let lab = Lab::new().unwrap();
    for address in ["10.77.1.1:5000", "[fd77:1::1]:5000"] {
        let finished = ours::run(&lab, Side::Right, &["listen", address]).unwrap();
        assert_fails(&lab, Side::Right, &finished, 1, &[address]);
    }
}

#[test]
fn a_foreign_xdp_program_stays_and_is_named() {
    require_root!();
    let lab = Lab::new().unwrap();
    let foreign = lab.right.foreign_xdp("right1").unwrap();
    let finished =
        Process::start(&mut ours::command(&lab, Side::Right, &["listen", "-i", "right1", "5000"]), true)
            .unwrap()
            .finish(PATIENCE)
            .unwrap();
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    // This process holds it, by a link.
    let holder = format!("(pid {})", std::process::id());
    for word in ["right1", "XDP program", &holder, "bpftool link detach id"] {
        assert!(finished.stderr.contains(word), "{word:?} is not said:\n{}", finished.stderr);
    }
    assert!(lab.right.has_xdp("right1").unwrap(), "the foreign program is gone");
    drop(foreign);
    assert_eq!(lab.left_attached(Side::Right).unwrap(), [""; 0]);
}

#[test]
fn another_process_of_this_stack_is_recognised() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    let first = ours::listen(&lab, &[]).unwrap();
    let finished = ours::run(&lab, Side::Right, &["connect", "10.77.1.1:5000"]).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    for word in ["another mptcp process", &format!("pid {}", first.id()), "right1", "-i"] {
        assert!(finished.stderr.contains(word), "{word:?} is not said:\n{}", finished.stderr);
    }
    first.signal(libc::SIGINT);
    first.finish(PATIENCE).unwrap();
}

#[test]
fn files_that_can_not_be_used_are_named_before_anything_is_attached() {
    require_root!();
    let lab = Lab::new().unwrap();
    for (option, file) in [("--file", "/nonexistent/in"), ("--output", "/nonexistent/out")] {
        let finished = ours::run(&lab, Side::Right, &["listen", option, file, "5000"]).unwrap();
        assert_fails(&lab, Side::Right, &finished, 1, &[file]);
    }
    for option in ["--json=/nonexistent/json", "--pcap=/nonexistent/pcap"] {
        let finished = ours::run(&lab, Side::Right, &["listen", option, "5000"]).unwrap();
        assert_fails(&lab, Side::Right, &finished, 1, &["/nonexistent/"]);
    }
}

#[test]
fn an_unknown_algorithm_is_refused_with_the_names_of_those_there_are() {
    for (option, known) in
        [("--scheduler", "lowest-rtt"), ("--congestion", "cubic"), ("--path-manager", "full-mesh")]
    {
        let output =
            Command::new(mptcp_binary()).args(["listen", option, "nonsense", "5000"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("nonsense") && said.contains(known), "{said}");
    }
}
