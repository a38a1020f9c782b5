//! Every connection ends, whatever state it is in when the other end, or the application, is gone.

use super::flood::spoofed_syn;
use super::pair::{Pair, PathConfig, pattern};
use crate::wire::{DataSeq, Dss, Flags, MptcpOption, Segment, Timestamps};
use crate::{ConnectionConfig, Counter};
use std::time::Duration;

/// What is said to both applications: that both let go of the connection, for good.
fn release(pair: &mut Pair) {
    let now = pair.now;
    for host in [&mut pair.client, &mut pair.server] {
        for id in host.endpoint.connections() {
            host.endpoint.release(now, id);
        }
    }
}

#[test]
fn a_connection_ends_in_whatever_state_the_network_and_the_applications_leave_it() {
    let regular = ConnectionConfig { multipath: false, ..ConnectionConfig::default() };
    let multipath = ConnectionConfig::default();
    let kinds = [(&multipath, &multipath), (&multipath, &regular), (&regular, &multipath)];
    for (kind, (client, server)) in kinds.into_iter().enumerate() {
        for (finish, let_go) in [(true, true), (true, false), (false, true)] {
            for cut in 0..70 {
                let mut pair = Pair::with_configs(cut, vec![PathConfig::default(); 3], false, client, server);
                if finish {
                    pair.send(pattern(20_000, 1), pattern(10_000, 2));
                } else {
                    pair.send_only(pattern(20_000, 1), pattern(10_000, 2));
                }
                pair.run_until(Duration::from_secs(2), |pair| pair.packets > cut);
                for path in &mut pair.paths {
                    path.up = false;
                }
                for _ in 0..2 {
                    if let_go {
                        release(&mut pair);
                    }
                    pair.run_until(Duration::from_secs(400), |_| false);
                }
                let case = format!("case {kind}, finish {finish}, let go {let_go}, cut after {cut}");
                for host in [&pair.client, &pair.server] {
                    assert_eq!(host.endpoint.counters().get(Counter::DeadlineMissing), 0, "{case}");
                }
                release(&mut pair);
                pair.run_until(Duration::from_secs(100), |_| false);
                for host in [&pair.client, &pair.server] {
                    let left = host.endpoint.connections();
                    let left: Vec<_> = left.iter().map(|id| host.endpoint.info(*id)).collect();
                    assert!(left.is_empty(), "{case}: {left:#?}");
                }
            }
        }
    }
}

#[test]
fn a_peer_that_never_sends_its_keys_is_given_up_however_much_else_it_sends() {
    for multipath in [true, false] {
        let mut pair = Pair::new(1, Vec::new(), false, &ConnectionConfig::default());
        release(&mut pair);
        let syn = spoofed_syn(1, multipath);
        let now = pair.now;
        pair.server.endpoint.handle_segment(now, syn.clone());
        let answer = pair.server.endpoint.poll_transmit(now).expect("SYN/ACK");
        let mut ack = Segment::new(syn.src, syn.dst);
        (ack.seq, ack.ack, ack.flags) = (syn.seq + 1, answer.seq + 1, Flags::ACK);
        let echo = answer.options.timestamps.map_or(0, |stamps| stamps.value);
        ack.options.timestamps = Some(Timestamps { value: 2, echo });
        if multipath {
            let dss = Dss { data_ack: Some((DataSeq(1), true)), mapping: None, data_fin: false };
            ack.options.mptcp.push(MptcpOption::Dss(dss));
        } else {
            // Outside of the window, again and again.
            ack.seq += 1 << 30;
        }
        for _ in 0..100 {
            let now = pair.now;
            pair.server.endpoint.handle_segment(now, ack.clone());
            while pair.server.endpoint.poll_transmit(now).is_some() {}
            pair.now += Duration::from_secs(1);
            let now = pair.now;
            pair.server.endpoint.handle_timeout(now);
            while pair.server.endpoint.poll_transmit(now).is_some() {}
        }
        assert!(pair.server.endpoint.connections().is_empty(), "{multipath}");
    }
}
