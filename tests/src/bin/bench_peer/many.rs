//! Roles with many connections at once: a task for each, of which the runtime drives all in one thread.

use super::net::{Net, Stream};
use super::{Args, CHUNK, PATIENCE, Role, Span, ready};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// Octets each way of a short connection.
const WORD: usize = 64;
/// Octets handed over at once where many connections are busy.
const PIECE: usize = CHUNK / 4;

/// Connections to one port: between two addresses there are no more than an address has ports.
const PER_PORT: usize = 50_000;

/// The ports, from the first one on, over which so many connections are spread.
fn ports(first: SocketAddr, connections: usize) -> impl Iterator<Item = SocketAddr> {
    let number = u16::try_from(connections.div_ceil(PER_PORT)).unwrap_or(u16::MAX);
    (first.port()..first.port().saturating_add(number)).map(move |port| SocketAddr::new(first.ip(), port))
}

pub(super) async fn run(args: &Args) -> Result<serde_json::Value> {
    let net = Net::new(args).await?;
    let result = play(&net, args.role).await;
    net.shutdown().await;
    result
}

async fn play(net: &Net, role: Role) -> Result<serde_json::Value> {
    match role {
        Role::Answer { local, count } => {
            let mut tasks = JoinSet::new();
            let mut listener = net.listen(local).await?;
            ready();
            for _ in 0..count {
                let stream = tokio::time::timeout(PATIENCE, listener.accept()).await??;
                tasks.spawn(answer(stream));
            }
            all(tasks).await?;
            Ok(json!({ "connections": count }))
        }
        Role::Ask { remote, count, at_once } => {
            let left = Arc::new(AtomicUsize::new(count));
            let start = Instant::now();
            let mut tasks = JoinSet::new();
            for _ in 0..at_once {
                tasks.spawn(ask(net.clone(), remote, left.clone()));
            }
            all(tasks).await?;
            Ok(json!({ "connections": count, "per_second": count as f64 / start.elapsed().as_secs_f64() }))
        }
        Role::DrainAll { local, count, settle, span } => {
            let mut listener = net.listen(local).await?;
            ready();
            let mut tasks = JoinSet::new();
            let mut streams = Vec::with_capacity(count);
            for _ in 0..count {
                streams.push(tokio::time::timeout(PATIENCE, listener.accept()).await??);
            }
            for stream in streams {
                tasks.spawn(drain(stream, Span::new(settle, span)));
            }
            let each = all(tasks).await?;
            let (sum, squares) =
                each.iter().fold((0.0, 0.0), |(sum, squares), rate| (sum + rate, squares + rate * rate));
            // Jain's index: 1 if all got the same, 1/n if one got everything.
            Ok(json!({ "gbps": sum * 1e-3, "jain": sum * sum / (count as f64 * squares) }))
        }
        Role::FloodAll { remote, count } => {
            let mut streams = Vec::with_capacity(count);
            for _ in 0..count {
                streams.push(net.connect(remote).await?);
            }
            let mut tasks = JoinSet::new();
            for stream in streams {
                tasks.spawn(flood(stream));
            }
            all(tasks).await?;
            Ok(json!({}))
        }
        Role::Keep { local, count } => {
            let mut listeners = Vec::new();
            for local in ports(local, count) {
                listeners.push(net.listen(local).await?);
            }
            ready();
            let mut streams = Vec::with_capacity(count);
            for number in 0..count {
                let listener = &mut listeners[number / PER_PORT];
                streams.push(tokio::time::timeout(PATIENCE, listener.accept()).await??);
            }
            eprintln!("holding");
            end_of_input().await?;
            Ok(json!({ "connections": streams.len() }))
        }
        Role::Hold { remote, count, subflows } => {
            ready();
            start_of_input().await?;
            let mut streams: Vec<Stream> = Vec::with_capacity(count);
            let remotes: Vec<_> = ports(remote, count).collect();
            for number in 0..count {
                let mut stream = net.connect(remotes[number / PER_PORT]).await?;
                // Where the peer speaks first or not at all, a server knows of the keys by the first octets.
                stream.write_all(&[0; WORD]).await?;
                streams.push(stream);
            }
            let deadline = Instant::now() + PATIENCE;
            let mut complete = 0;
            while complete < count && Instant::now() < deadline {
                if streams[complete].subflows().await >= subflows {
                    complete += 1;
                } else {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
            eprintln!("holding");
            end_of_input().await?;
            Ok(json!({ "connections": count, "complete": complete }))
        }
        other => anyhow::bail!("{other:?} is about one connection"),
    }
}

/// Results of all tasks, or the first failure.
async fn all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(result) = tasks.join_next().await {
        results.push(result.context("a task panicked")??);
    }
    Ok(results)
}

async fn answer(mut stream: Stream) -> Result<()> {
    let mut word = [0; WORD];
    stream.read_exact(&mut word).await?;
    stream.write_all(&word).await?;
    let rest = stream.read(&mut word).await?;
    ensure!(rest == 0, "more than was asked for");
    stream.shutdown().await?;
    Ok(())
}

async fn ask(net: Net, remote: SocketAddr, left: Arc<AtomicUsize>) -> Result<()> {
    let mut word = [7; WORD];
    while left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let mut stream = net.connect(remote).await?;
        stream.write_all(&word).await?;
        stream.read_exact(&mut word).await?;
        stream.shutdown().await?;
        let rest = stream.read(&mut word).await?;
        ensure!(rest == 0, "more than was asked for");
    }
    Ok(())
}

/// Megabits per second.
async fn drain(mut stream: Stream, mut span: Span) -> Result<f64> {
    let mut buffer = vec![0; PIECE];
    while let Some(left) = span.left() {
        if let Ok(read) = tokio::time::timeout(left, stream.read(&mut buffer)).await {
            let octets = read?;
            ensure!(octets > 0, "the flood ended");
            span.count(octets);
        }
    }
    span.rate()["mbps"].as_f64().context("no rate")
}

async fn flood(mut stream: Stream) -> Result<()> {
    let buffer = vec![0x5a; PIECE];
    while stream.write_all(&buffer).await.is_ok() {}
    Ok(())
}

async fn start_of_input() -> Result<()> {
    tokio::io::stdin().read_u8().await.context("nobody says when to begin")?;
    Ok(())
}

async fn end_of_input() -> Result<()> {
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
    Ok(())
}
