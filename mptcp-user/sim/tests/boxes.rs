//! One box at a time on an otherwise plain path: the loss of goodput that it may cause, and no more.

use mptcp_proto::{ConnectionConfig, ConnectionInfo};
use mptcp_sim::middlebox::{Action, BoxConfig, OptionKind, When};
use mptcp_sim::{LinkConfig, Loss, PathConfig, Side, Simulation, SimulationConfig, Traffic};
use std::time::Duration;

/// Sends octets from the client to the server over one path whose way back is without losses; gives the time
/// it took and what the client knew at its end.
fn transfer(seed: u64, octets: u64, link: LinkConfig, boxes: Vec<BoxConfig>) -> (Duration, ConnectionInfo) {
    let (client, server) = ("10.1.0.1".parse().unwrap(), "10.2.0.1".parse().unwrap());
    let reverse = LinkConfig { loss: Loss::None, ..link };
    let path = PathConfig { reverse, boxes, ..PathConfig::new(client, server, link) };
    let mut simulation = Simulation::new(&SimulationConfig::new(seed, vec![path]));
    let config = ConnectionConfig::default();
    simulation.listen(config.clone(), Traffic::send(0)).unwrap();
    simulation.connect(client, server, config, Traffic::send(octets)).unwrap();
    let start = simulation.now();
    let mut info = None;
    let done = simulation.run_until(start + Duration::from_secs(600), |simulation| {
        let outcomes = simulation.outcomes(Side::Server);
        let all = outcomes.first().is_some_and(|outcome| outcome.received == octets);
        if all {
            info = simulation.info(Side::Client, 0);
        }
        all
    });
    assert!(done, "{:#?}", simulation.info(Side::Client, 0));
    (simulation.now() - start, info.expect("the client still has its connection"))
}

#[test]
fn a_box_that_spoils_sack_blocks_costs_no_more_than_one_that_strips_sack() {
    let link = LinkConfig::new(20_000_000, Duration::from_millis(20)).with_loss(0.01);
    let strip =
        BoxConfig::Option { option: OptionKind::Sack, when: When::Always, way: None, action: Action::Strip };
    let spoil = BoxConfig::SequenceRandomiser { translate_sack: false };
    let total = |middlebox: &BoxConfig| -> Duration {
        (1..6).map(|seed| transfer(seed, 5_000_000, link, vec![middlebox.clone()]).0).sum()
    };
    let (spoilt, stripped) = (total(&spoil), total(&strip));
    // Unnoticed, losses cost retransmission timeouts: it takes nearly twice as long.
    assert!(spoilt < stripped * 4 / 3, "{spoilt:?} with spoilt blocks, {stripped:?} without any");
}
