//! Windows and buffers: what is offered, how much is held, and that nothing gets stuck.

use super::pair::{Pair, PathConfig, pattern};
use crate::proto::ConnectionConfig;
use std::time::Duration;

/// Lengths of the segments with data that the client has sent.
fn lengths(pair: &Pair) -> Vec<usize> {
    let sent = pair.log.iter().filter(|line| line.contains(":39999 > "));
    let length = |line: &String| line.split(" len ").nth(1)?.split_whitespace().next()?.parse().ok();
    sent.filter_map(length).filter(|len| *len > 0).collect()
}

#[test]
fn a_buffer_smaller_than_a_segment_is_served_all_the_same() {
    for multipath in [true, false] {
        for receive_buffer in [1, 100, 1000, 2000] {
            let client = ConnectionConfig { multipath, ..ConnectionConfig::default() };
            let server = ConnectionConfig { receive_buffer, ..client.clone() };
            let mut pair = Pair::with_configs(1, vec![PathConfig::default()], false, &client, &server);
            let data = pattern(20 * receive_buffer, 1);
            pair.send(data.clone(), Vec::new());
            assert!(pair.run(Duration::from_secs(60)), "{receive_buffer} {}", pair.tail());
            assert!(pair.server.received == data);
        }
    }
}

#[test]
fn a_reader_in_small_bites_gets_full_segments() {
    for multipath in [true, false] {
        let config = ConnectionConfig { multipath, receive_buffer: 20_000, ..ConnectionConfig::default() };
        let mut pair = Pair::new(2, vec![PathConfig::default()], false, &config);
        let data = pattern(100_000, 1);
        pair.send(data.clone(), Vec::new());
        pair.server.read_limit = 0;
        for _ in 0..1000 {
            pair.server.read_limit += 100;
            pair.run_until(Duration::from_millis(2), |_| false);
        }
        assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
        assert!(pair.server.received == data);
        let lengths = lengths(&pair);
        assert_eq!(lengths.iter().sum::<usize>(), 100_000);
        let small = lengths.iter().filter(|len| **len < 1400).count();
        assert!(lengths.len() <= 100_000 / 1400 + small && small <= 3, "{lengths:?}");
    }
}
