//! One connection of our stack, through its library.

use super::{Args, CHUNK, Effort, Pace, Pauses, Role, Span, look, quantiles, ready};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use mptcp_user::stack::{MptcpStream, Stack};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// Plays a role over one connection of our stack.
pub(super) async fn run(args: &Args) -> Result<serde_json::Value> {
    let stack = stack(args).await?;
    // A task as the stack's driver is one, not what the runtime was started with: tasks of a `LocalSet`
    // follow each other directly.
    let result = tokio::task::spawn_local(play(stack.clone(), args.role)).await?;
    stack.shutdown(Duration::from_secs(3)).await;
    result
}

/// The stack that the arguments ask for. Called inside of a `LocalSet`.
pub(super) async fn stack(args: &Args) -> Result<Stack> {
    let mut builder = Stack::builder();
    builder.connection.multipath = !args.no_multipath;
    if let Some(name) = &args.congestion {
        builder.connection.congestion.clone_from(name);
    }
    if let Some(mebibytes) = args.buffer {
        builder.connection.send_buffer = mebibytes << 20;
        builder.connection.receive_buffer = mebibytes << 20;
    }
    if let Some(name) = &args.path_manager {
        builder.connection.path_manager.clone_from(name);
    }
    builder.busy_poll = args.busy_poll;
    if args.local {
        let (stack, driver) = builder.build_local().await?;
        tokio::task::spawn_local(driver);
        return Ok(stack);
    }
    Ok(builder.build().await?)
}

async fn subflows(stream: &MptcpStream) -> usize {
    let info = stream.info().await;
    info.subflows.iter().filter(|subflow| subflow.bytes_received + subflow.bytes_acked > 0).count()
}

async fn play(stack: Stack, role: Role) -> Result<serde_json::Value> {
    let accept = async |local| -> Result<MptcpStream> {
        let mut listener = stack.listen(local).await?;
        ready();
        Ok(listener.accept().await?.0)
    };
    let connect = async |remote| -> Result<MptcpStream> { Ok(stack.connect(remote).await?) };
    // Handed over without copying, as a program would that has its octets in memory of its own.
    let pattern = Bytes::from(vec![0x5a; CHUNK]);
    match role {
        Role::Sink { local } => {
            let mut stream = accept(local).await?;
            let effort = Effort::begin()?;
            let mut total = 0;
            while let Some(octets) = stream.read_bytes(CHUNK).await? {
                look(&octets);
                total += octets.len() as u64;
            }
            let spent = effort.end(total, 0)?;
            stream.shutdown().await?;
            Ok(spent)
        }
        Role::Source { remote, bytes, gbps } => {
            let mut stream = connect(remote).await?;
            let (effort, mut pace) = (Effort::begin()?, Pace::new(gbps));
            let mut left = bytes;
            while left > 0 {
                let octets = left.min(CHUNK as u64) as usize;
                if let Some(wait) = pace.wait(octets) {
                    tokio::time::sleep(wait).await;
                }
                stream.write_bytes(&mut pattern.slice(..octets)).await?;
                left -= octets as u64;
            }
            stream.shutdown().await?;
            ensure!(stream.read_bytes(1).await?.is_none(), "the sink sent something");
            effort.end(bytes, subflows(&stream).await)
        }
        Role::Drain { local, settle, span } => {
            let mut stream = accept(local).await?;
            let mut span = Span::new(settle, span);
            while let Some(left) = span.left() {
                if let Ok(read) = tokio::time::timeout(left, stream.read_bytes(CHUNK)).await {
                    let octets = read?.context("the flood ended")?;
                    span.count(octets.len());
                }
            }
            Ok(span.rate())
        }
        Role::Watch { local, millis } => {
            let mut stream = accept(local).await?;
            let mut pauses = Pauses::new(millis);
            while let Some(left) = pauses.left() {
                if let Ok(read) = tokio::time::timeout(left, stream.read_bytes(CHUNK)).await {
                    let octets = read?.context("the flood ended")?;
                    pauses.note(octets.len());
                }
            }
            Ok(pauses.all())
        }
        Role::Flood { remote } => {
            let mut stream = connect(remote).await?;
            while stream.write_bytes(&mut pattern.clone()).await.is_ok() {}
            Ok(serde_json::json!({}))
        }
        Role::Echo { local } => {
            let mut stream = accept(local).await?;
            let mut total = 0;
            while let Some(mut octets) = stream.read_bytes(CHUNK).await? {
                total += octets.len() as u64;
                stream.write_bytes(&mut octets).await?;
            }
            stream.shutdown().await?;
            Ok(serde_json::json!({ "bytes": total }))
        }
        Role::Ping { remote, size, count } => {
            let mut stream = connect(remote).await?;
            let mut trips = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                stream.write_bytes(&mut pattern.slice(..size)).await?;
                let mut left = size;
                while left > 0 {
                    left -= stream.read_bytes(left).await?.context("the echo ended")?.len();
                }
                trips.push(start.elapsed());
            }
            stream.shutdown().await?;
            Ok(quantiles(trips))
        }
        other => unreachable!("{other:?} is about many connections"),
    }
}
