//! The XDP program, packet by packet.

use mptcp_tests::require_root;
use mptcp_tests::xdp::*;

#[test]
fn smoke() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    println!("{:?}", lab.program.size().unwrap());
    let packet = Frame::data(0, 100).build();
    let (run, counter) = lab.run(&packet, packet.len()).unwrap();
    println!("{counter:?} {run:x?}");
    for (name, frame) in [("hit4", Frame::data(0, 1000)), ("hit6", Frame::data(1, 1000))] {
        let packet = frame.build();
        let run = lab.program.test_run(&packet, packet.len(), 1_000_000).unwrap();
        println!("{name} {:?}", run.duration);
    }
}
