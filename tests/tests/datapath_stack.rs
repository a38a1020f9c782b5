//! The library's face over real interfaces: both ends in this process, each in its own namespace.

use bytes::Bytes;
use mptcp_proto::{CloseReason, ConnectionConfig, ConnectionState};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::require_root;
use mptcp_user::stack::{HostFacts, MptcpListener, MptcpStream, Stack, StackBuilder, StackError};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

const PATIENCE: Duration = Duration::from_secs(40);

/// A stack in a side's namespace. Its sockets and threads belong to the namespace from then on.
fn start(lab: &Lab, side: Side) -> Stack {
    lab.namespace(side).run(|| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(Stack::builder().build()).expect("stack")
    })
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime")
}

fn within<T>(runtime: &Runtime, work: impl Future<Output = T>) -> T {
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") })
}

fn octets(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ salt as u8).collect()
}

async fn listen(stack: &Stack) -> (MptcpListener, u16) {
    let listener = stack.listen("[::]:0".parse().expect("address")).await.expect("listener");
    let port = listener.local_addr().port();
    (listener, port)
}

/// Sends back all that comes, until it ends.
async fn send_back(stream: MptcpStream) {
    let (mut read, mut write) = tokio::io::split(stream);
    tokio::io::copy(&mut read, &mut write).await.expect("copies");
    write.shutdown().await.expect("finishes");
}

#[test]
fn many_connections_at_once_each_get_their_own_octets_back() {
    require_root!();
    let lab = Lab::new().expect("links");
    let (left, right) = (start(&lab, Side::Left), start(&lab, Side::Right));
    let runtime = runtime();
    within(&runtime, async {
        let (mut listener, port) = listen(&right).await;
        let echo = tokio::spawn(async move {
            for _ in 0..40 {
                let (stream, _) = listener.accept().await.expect("connection");
                tokio::spawn(send_back(stream));
            }
        });
        let mut clients = Vec::new();
        for number in 0..40usize {
            let stack = left.clone();
            clients.push(tokio::spawn(async move {
                let family = Family::BOTH[number % 2];
                let remote = Side::Right.socket(1 + number / 2 % 2, family, port);
                let stream = stack.connect(remote).await.expect("connects");
                assert_eq!(stream.peer_addr(), remote);
                let sent = octets(50_000 + number * 7919, number);
                let (mut read, mut write) = tokio::io::split(stream);
                let question = sent.clone();
                let writer = tokio::spawn(async move {
                    write.write_all(&question).await.expect("writes");
                    write.shutdown().await.expect("finishes");
                    write
                });
                let mut got = Vec::new();
                read.read_to_end(&mut got).await.expect("reads");
                assert!(got == sent, "connection {number}");
                let stream = read.unsplit(writer.await.expect("writer"));
                assert_eq!(stream.closed().await, CloseReason::Finished);
                let info = stream.info().await;
                assert_eq!((info.state, info.fallback), (ConnectionState::Closed, None));
                assert_eq!(info.bytes_acked, sent.len() as u64);
            }));
        }
        for client in clients {
            client.await.expect("client");
        }
        echo.await.expect("server");
    });
}

#[test]
fn octets_that_are_handed_over_without_copying_are_the_same_whatever_is_cancelled() {
    require_root!();
    let lab = Lab::new().expect("links");
    let (left, right) = (start(&lab, Side::Left), start(&lab, Side::Right));
    let runtime = runtime();
    within(&runtime, async {
        let (mut listener, port) = listen(&right).await;
        let echo = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("connection");
            while let Some(mut octets) = stream.read_bytes(10_000).await.expect("reads") {
                assert!((1..=10_000).contains(&octets.len()));
                stream.write_bytes(&mut octets).await.expect("writes");
                assert!(octets.is_empty());
            }
            stream.shutdown().await.expect("finishes");
            stream.closed().await
        });
        let mut stream = left.connect(Side::Right.socket(1, Family::Ipv4, port)).await.expect("connects");
        // More than all queues on the way there and back can hold.
        let sent = octets(40_000_000, 5);
        let (mut left, mut got, mut cancelled) = (Bytes::from(sent.clone()), Vec::new(), 0);
        while !left.is_empty() {
            // The queue is full most of the time, and nobody reads while we wait for it.
            let pause = Duration::from_millis(1);
            if tokio::time::timeout(pause, stream.write_bytes(&mut left)).await.is_err() {
                cancelled += 1;
                if let Ok(read) = tokio::time::timeout(pause, stream.read_bytes(usize::MAX)).await {
                    got.extend(read.expect("reads").expect("not the end"));
                }
            }
        }
        assert!(cancelled > 0, "the queue was never full");
        assert_eq!(stream.read_bytes(0).await.expect("nothing"), Some(Bytes::new()));
        stream.shutdown().await.expect("finishes");
        while let Some(octets) = stream.read_bytes(usize::MAX).await.expect("reads") {
            got.extend(octets);
        }
        assert!(got == sent);
        assert_eq!(stream.read_bytes(1).await.expect("still the end"), None);
        assert_eq!(stream.closed().await, CloseReason::Finished);
        assert_eq!(echo.await.expect("server"), CloseReason::Finished);
        let refused = stream.write_bytes(&mut Bytes::from_static(b"late")).await.expect_err("over");
        assert_eq!(refused.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn unread_data_makes_dropping_an_abort_and_read_data_does_not() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let (left, right) = (start(&lab, Side::Left), start(&lab, Side::Right));
    let runtime = runtime();
    within(&runtime, async {
        let (mut listener, port) = listen(&right).await;
        let remote = Side::Right.socket(1, Family::Ipv4, port);
        let mut client = left.connect(remote).await.expect("connects");
        let (server, _) = listener.accept().await.expect("connection");
        client.write_all(b"nobody reads this").await.expect("writes");
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(server);
        assert_eq!(client.closed().await, CloseReason::Reset);
        let error = client.read_u8().await.expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);

        let mut client = left.connect(remote).await.expect("connects");
        let (mut server, _) = listener.accept().await.expect("connection");
        client.write_all(b"question").await.expect("writes");
        let mut question = [0; 8];
        server.read_exact(&mut question).await.expect("reads");
        server.write_all(b"answer").await.expect("writes");
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("reads to an orderly end");
        assert_eq!(answer, b"answer");
    });
}

#[test]
fn errors_say_what_is_wrong_before_any_packet_leaves() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let left = start(&lab, Side::Left);
    let _right = start(&lab, Side::Right);
    let runtime = runtime();
    within(&runtime, async {
        let own = Side::Left.socket(1, Family::Ipv4, 80);
        assert!(matches!(left.connect(own).await, Err(StackError::OwnAddress(ip)) if ip == own.ip()));
        let loopback: SocketAddr = "127.0.0.1:80".parse().expect("address");
        assert!(matches!(left.connect(loopback).await, Err(StackError::OwnAddress(_))));
        let nowhere: SocketAddr = "203.0.113.1:80".parse().expect("address");
        assert!(matches!(left.connect(nowhere).await, Err(StackError::NoRoute { .. })));
        let closed = Side::Right.socket(1, Family::Ipv6, 9);
        let refused = left.connect(closed).await;
        assert!(
            matches!(refused, Err(StackError::NotConnected { reason: CloseReason::Refused, .. })),
            "{:?}",
            refused.err()
        );
        let absent: SocketAddr = "10.77.1.200:80".parse().expect("address");
        let started = Instant::now();
        let config = ConnectionConfig { connect_timeout: Duration::from_secs(5), ..Default::default() };
        let failed = left.connect_with(absent, None, config).await;
        assert!(matches!(failed, Err(StackError::NotConnected { .. })), "{:?}", failed.err());
        assert!(started.elapsed() < Duration::from_secs(8));
        let foreign = left.connect_with(
            closed,
            Some("[fd00::9]:0".parse().expect("address")),
            ConnectionConfig::default(),
        );
        assert!(matches!(foreign.await, Err(StackError::BadLocal { .. })));
        assert!(matches!(
            left.listen("192.0.2.1:80".parse().expect("address")).await,
            Err(StackError::BadLocal { .. })
        ));
    });
}

#[test]
fn nothing_stays_attached_when_the_last_handle_is_dropped() {
    require_root!();
    let lab = Lab::new().expect("links");
    let left = start(&lab, Side::Left);
    assert_eq!(lab.attached(Side::Left).expect("asks"), ["left1", "left2"]);
    assert_eq!(left.interfaces().len(), 2);
    let clone = left.clone();
    drop(left);
    assert_eq!(lab.attached(Side::Left).expect("asks").len(), 2, "a clone is left");
    drop(clone);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !lab.attached(Side::Left).expect("asks").is_empty() {
        assert!(Instant::now() < deadline, "still attached");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn interfaces_that_come_up_later_are_used_and_those_that_go_are_let_go() {
    require_root!();
    let lab = Lab::new().expect("links");
    lab.left.ip("link set left2 down").expect("down");
    let left = start(&lab, Side::Left);
    let names = || left.interfaces().into_iter().map(|report| report.name).collect::<Vec<_>>();
    let wait_for = |expected: &[&str]| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while names() != expected {
            assert!(Instant::now() < deadline, "{:?} instead of {expected:?}", names());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(&["left1"]);
    lab.left.ip("link set left2 up").expect("up");
    wait_for(&["left1", "left2"]);
    lab.left.ip("link del left1").expect("gone");
    wait_for(&["left2"]);
    assert!(lab.left.has_xdp("left2").expect("asks"));
}

#[test]
fn a_kernel_without_af_xdp_is_named_as_the_reason() {
    fn without() -> std::io::Result<HostFacts> {
        Ok(HostFacts { af_xdp: false, ..HostFacts::gather()? })
    }
    let runtime = runtime();
    let mut builder = Stack::builder();
    builder.probe = without;
    let error = runtime.block_on(builder.build()).err().expect("no stack");
    assert!(matches!(error, StackError::Datapath(mptcp_datapath::Error::NoAfXdp)));
    assert!(error.to_string().contains("CONFIG_XDP_SOCKETS"), "{error}");
}

/// Sends octets to `remote`, where they are sent back, through a stack that is driven by this task's runtime.
async fn there_and_back(builder: StackBuilder, remote: SocketAddr) {
    let (stack, driver) = builder.build_local().await.expect("stack");
    let driver = tokio::task::spawn_local(driver);
    let sent = octets(3_000_000, 7);
    let stream = stack.connect(remote).await.expect("connects");
    let (mut read, mut write) = tokio::io::split(stream);
    let mut got = Vec::new();
    let writes = async {
        write.write_all(&sent).await.expect("writes");
        write.shutdown().await.expect("finishes");
    };
    let (_, reads) = tokio::join!(writes, read.read_to_end(&mut got));
    reads.expect("reads");
    assert!(got == sent);
    // A timer that is due while nothing else happens: the peer goes on after a pause.
    let mut stream = stack.connect(remote).await.expect("connects");
    for size in [1, 100, 50_000] {
        tokio::time::sleep(Duration::from_millis(30)).await;
        stream.write_all(&sent[..size]).await.expect("writes");
        let mut answer = vec![0; size];
        stream.read_exact(&mut answer).await.expect("reads");
        assert!(answer == sent[..size]);
    }
    stream.shutdown().await.expect("finishes");
    assert_eq!(stream.read(&mut got).await.expect("reads"), 0);
    drop(stream);
    stack.shutdown(PATIENCE).await;
    driver.await.expect("ends with its stack");
}

#[test]
fn a_stack_without_a_thread_works_where_its_driver_is_polled() {
    require_root!();
    let lab = Lab::new().expect("links");
    let right = start(&lab, Side::Right);
    let server = runtime();
    let port = within(&server, async {
        let (mut listener, port) = listen(&right).await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(send_back(stream));
            }
        });
        port
    });
    // Other tests have threads in other namespaces.
    let threads_here = || {
        let here = std::fs::read_link("/proc/thread-self/ns/net").expect("namespace");
        let all = std::fs::read_dir("/proc/self/task").expect("threads").filter_map(Result::ok);
        all.filter(|task| std::fs::read_link(task.path().join("ns/net")).is_ok_and(|it| it == here)).count()
    };
    for (busy_poll, family) in [(false, Family::Ipv4), (true, Family::Ipv6)] {
        let remote = Side::Right.socket(1, family, port);
        lab.namespace(Side::Left).run(|| {
            let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
            let work = async {
                there_and_back(StackBuilder { busy_poll, ..StackBuilder::default() }, remote).await;
                assert_eq!(threads_here(), 1, "only this one");
            };
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async { tokio::time::timeout(PATIENCE, work).await.expect("in time") });
        });
        // Not at once: processes that other tests begin to start hold on to all descriptors for a moment.
        assert_eq!(lab.left_attached(Side::Left).expect("looked at"), Vec::<String>::new());
    }
}

#[test]
fn a_stack_ends_with_its_driver() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let right = start(&lab, Side::Right);
    let server = runtime();
    let (mut listener, port) = within(&server, listen(&right));
    let accepted = server.spawn(async move { listener.accept().await.expect("connection").0.closed().await });
    lab.namespace(Side::Left).run(|| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let (stack, driver) = Stack::builder().build_local().await.expect("stack");
            let driver = tokio::task::spawn_local(driver);
            let remote = Side::Right.socket(1, Family::Ipv4, port);
            let mut stream = stack.connect(remote).await.expect("connects");
            driver.abort();
            assert!(driver.await.expect_err("dropped").is_cancelled());
            assert_eq!(stream.closed().await, CloseReason::Aborted);
            stream.write_all(&[1]).await.expect_err("nobody is there to send it");
            assert!(matches!(stack.connect(remote).await, Err(StackError::Stopped)));
        });
    });
    assert_eq!(lab.left_attached(Side::Left).expect("looked at"), Vec::<String>::new());
    drop(accepted);
}
