//! Addresses of ours that are not for everybody, or not for new subflows.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::wire::MptcpOption;
use crate::{AddressUse, CloseReason, ConnectionConfig};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server announces, and the addresses that the client opens subflows from, with three paths between
/// them whose server's or client's second address gets these uses one after the other.
fn transfer(server: bool, address_uses: &[AddressUse]) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 3], false, &ConnectionConfig::default());
    let end = if server { &mut pair.server } else { &mut pair.client };
    for address_use in address_uses {
        end.endpoint.set_address_use(address(1, if server { 2 } else { 1 }, false), *address_use);
    }
    let told = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let seen = told.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        let mut seen = seen.lock().unwrap();
        let joins = segment.options.join().is_some() && segment.flags.has(crate::wire::Flags::SYN);
        if from_client && joins && !seen.1.contains(&segment.src.ip()) {
            seen.1.push(segment.src.ip());
        }
        for option in &segment.options.mptcp {
            if let MptcpOption::AddAddr(add) = option
                && !from_client
                && !add.echo
                && !seen.0.contains(&add.address)
            {
                seen.0.push(add.address);
            }
        }
        drop(seen);
        Some(segment)
    }));
    pair.send(pattern(300_000, 1), Vec::new());
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert_eq!(pair.client.closed, Some(CloseReason::Finished));
    let told = told.lock().unwrap();
    told.clone()
}

#[test]
fn an_address_that_only_its_link_can_reach_is_not_told_to_others() {
    let second = address(1, 2, false);
    for address_uses in [&[][..], &[AddressUse::Any], &[AddressUse::Existing, AddressUse::Any]] {
        let (announced, _) = transfer(true, address_uses);
        assert!(announced.contains(&second) && announced.len() == 2, "{address_uses:?}: {announced:?}");
    }
    for address_use in [AddressUse::Link, AddressUse::Existing] {
        let (announced, _) = transfer(true, &[address_use]);
        assert!(!announced.contains(&second) && announced.len() == 1, "{address_use:?}: {announced:?}");
    }
}

#[test]
fn no_subflow_is_opened_from_an_address_that_is_for_existing_ones() {
    let second = address(1, 1, false);
    for (address_use, opened) in
        [(AddressUse::Any, true), (AddressUse::Link, true), (AddressUse::Existing, false)]
    {
        let (_, sources) = transfer(false, &[address_use]);
        assert_eq!(sources.contains(&second), opened, "{address_use:?}: {sources:?}");
    }
}
