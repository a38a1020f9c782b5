//! One connection of the kernel's, through blocking calls.

use super::{Args, CHUNK, Effort, PATIENCE, Pace, Pauses, Role, Span, look, quantiles, ready};
use anyhow::{Result, ensure};
use mptcp_tests::kernel::{self, Protocol};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Instant;

/// Plays a role over one connection of the kernel's.
pub(super) fn run(protocol: Protocol, args: &Args) -> Result<serde_json::Value> {
    let subflows = |stream: &TcpStream| {
        kernel::info(stream)
            .filter(|info| !info.fallback)
            .map_or(1, |info| 1 + usize::from(info.additional_subflows))
    };
    // The kernel takes an MP_JOIN only while it would take a connection there: the listener must live.
    let accept = |local| -> Result<(TcpStream, TcpListener)> {
        let listener = kernel::listen_here(protocol, local)?;
        ready();
        Ok((kernel::accept(&listener, PATIENCE)?, listener))
    };
    let connect = |remote| -> Result<TcpStream> {
        let stream = kernel::connect_here(protocol, None, remote, PATIENCE)?;
        if let Some(name) = &args.congestion {
            kernel::set_congestion(&stream, name)?;
        }
        Ok(stream)
    };
    let mut buffer = vec![0x5a; CHUNK];
    match args.role {
        Role::Sink { local } => {
            let (mut stream, _listener) = accept(local)?;
            let effort = Effort::begin()?;
            let mut total = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    octets => {
                        look(&buffer[..octets]);
                        total += octets as u64;
                    }
                }
            }
            effort.end(total, 0)
        }
        Role::Source { remote, bytes, gbps } => {
            let mut stream = connect(remote)?;
            let (effort, mut pace) = (Effort::begin()?, Pace::new(gbps));
            let mut left = bytes;
            while left > 0 {
                let octets = left.min(CHUNK as u64) as usize;
                if let Some(wait) = pace.wait(octets) {
                    std::thread::sleep(wait);
                }
                stream.write_all(&buffer[..octets])?;
                left -= octets as u64;
            }
            // Afterwards they may be closed.
            let subflows = subflows(&stream);
            stream.shutdown(Shutdown::Write)?;
            ensure!(stream.read(&mut buffer)? == 0, "the sink sent something");
            effort.end(bytes, subflows)
        }
        Role::Drain { local, settle, span } => {
            let (mut stream, _listener) = accept(local)?;
            let mut span = Span::new(settle, span);
            while let Some(left) = span.left() {
                stream.set_read_timeout(Some(left))?;
                match stream.read(&mut buffer) {
                    Ok(octets) => {
                        ensure!(octets > 0, "the flood ended");
                        span.count(octets);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(span.rate())
        }
        Role::Watch { local, millis } => {
            let (mut stream, _listener) = accept(local)?;
            let mut pauses = Pauses::new(millis);
            while let Some(left) = pauses.left() {
                stream.set_read_timeout(Some(left))?;
                match stream.read(&mut buffer) {
                    Ok(octets) => {
                        ensure!(octets > 0, "the flood ended");
                        pauses.note(octets);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(pauses.all())
        }
        Role::Flood { remote } => {
            let mut stream = connect(remote)?;
            while stream.write_all(&buffer).is_ok() {}
            Ok(serde_json::json!({}))
        }
        Role::Echo { local } => {
            let (mut stream, _listener) = accept(local)?;
            stream.set_nodelay(true)?;
            let mut total = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    octets => {
                        stream.write_all(&buffer[..octets])?;
                        total += octets as u64;
                    }
                }
            }
            Ok(serde_json::json!({ "bytes": total }))
        }
        Role::Ping { remote, size, count } => {
            let mut stream = connect(remote)?;
            stream.set_nodelay(true)?;
            let mut trips = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                stream.write_all(&buffer[..size])?;
                stream.read_exact(&mut buffer[..size])?;
                trips.push(start.elapsed());
            }
            Ok(quantiles(trips))
        }
        other => unreachable!("{other:?} is about many connections"),
    }
}
