//! The emulator (`mptcp lab`) between the kernel's own stacks: what the kernel sees is what was configured.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::netns::{End, Namespace, link};
use mptcp_tests::require_root;
use mptcp_user::lab::{BoxSettings, Lab, LabConfig, LabReport, LinkSettings};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` with a client's and a server's namespace that the emulator connects.
fn through<T: Send>(
    config: &LabConfig,
    work: impl FnOnce(&Namespace, &Namespace) -> T + Send,
) -> (T, LabReport) {
    let [client, middle, server] =
        ["client", "middle", "server"].map(|label| Namespace::new(label).expect("namespace"));
    for (outer, inner, addresses) in [
        (&client, "first", ["10.9.0.1/24", "fd00:9::1/64"]),
        (&server, "second", ["10.9.0.2/24", "fd00:9::2/64"]),
    ] {
        link(
            &End { namespace: outer, interface: "eth0", addresses: &addresses },
            &End { namespace: &middle, interface: inner, addresses: &[] },
        )
        .expect("link");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let forwarding = scope.spawn(|| {
            middle.run(|| {
                Lab::open("first", "second", config)
                    .and_then(|mut lab| lab.run(&stop, Some(Duration::from_secs(60))))
                    .expect("forwarding")
            })
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&client, &server)));
        stop.store(true, Ordering::Relaxed);
        let report = forwarding.join().expect("the emulator does not panic");
        match result {
            Ok(result) => (result, report),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Sends octets from the client to the server and gives both sockets and how long the handshake took.
fn transfer(
    client: &Namespace,
    server: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    octets: usize,
) -> (TcpStream, TcpStream, Duration) {
    let listener = kernel::listen(server, protocol, to).expect("listener");
    let begin = Instant::now();
    let mut sender = kernel::connect(client, protocol, None, to, PATIENCE).expect("connection");
    let handshake = begin.elapsed();
    let mut receiver = kernel::accept(&listener, PATIENCE).expect("accept");
    let sent: Vec<u8> = (0..octets).map(|i| (i * 31 + i / 256) as u8).collect();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut received = Vec::new();
            receiver.read_to_end(&mut received).map(|_| received)
        });
        sender.write_all(&sent).expect("write");
        sender.shutdown(Shutdown::Write).expect("shutdown");
        reader.join().expect("the reader does not panic").expect("read")
    });
    assert!(received == sent, "{} octets of {} arrived as sent", received.len(), sent.len());
    (sender, receiver, handshake)
}

fn both(settings: &str) -> LabConfig {
    let mut config = LabConfig { seed: 1, ..LabConfig::default() };
    let settings = LinkSettings::parse(settings).expect("settings");
    settings.apply(&mut config.forward).expect("settings");
    settings.apply(&mut config.reverse).expect("settings");
    config
}

#[test]
fn the_kernel_sees_the_delay_and_survives_the_loss() {
    require_root!();
    for to in ["10.9.0.2:80", "[fd00:9::2]:80"] {
        let mut config = both("delay=20ms,rate=200mbit");
        LinkSettings::parse("loss=1%").expect("settings").apply(&mut config.forward).expect("settings");
        let ((_, _, handshake), report) = through(&config, |client, server| {
            transfer(client, server, Protocol::Tcp, to.parse().expect("address"), 1 << 20)
        });
        assert!(handshake >= Duration::from_millis(40), "{handshake:?}");
        assert!(report.forward.link.lost > 0 && report.reverse.link.lost == 0, "{report:?}");
        assert!(report.forward.link.offered > 700, "super-segments are cut: {report:?}");
        assert_eq!((report.forward.missed, report.forward.refused), (0, 0), "{report:?}");
    }
}

#[test]
fn what_the_emulator_strips_the_kernel_does_without() {
    require_root!();
    for (boxes, falls_back) in
        [(vec![], false), (vec!["strip,option=mptcp,when=syn", "randomise-sequence"], true)]
    {
        let mut config = both("delay=1ms");
        config.boxes =
            boxes.iter().map(|text| BoxSettings::parse(text).expect("box").build().expect("box")).collect();
        let to = "10.9.0.2:81".parse().expect("address");
        let (fell_back, _) = through(&config, |client, server| {
            let (sender, _receiver, _) = transfer(client, server, Protocol::Mptcp, to, 300_000);
            kernel::info(&sender).is_none_or(|info| info.fallback)
        });
        assert_eq!(fell_back, falls_back, "{boxes:?}");
    }
}
