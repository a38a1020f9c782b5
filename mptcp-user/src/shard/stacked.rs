//! Interfaces that are made on top of others: VLANs, macvlans, ipvlans.
//!
//! The kernel attaches a program to an interface only while none is attached to an interface directly above
//! it (`dev_xdp_attach` in `net/core/dev.c`); the other order is no problem. So the upper ones are detached
//! for the moment that it takes.

use super::Shard;
use mptcp_datapath::interface::HostFacts;
use mptcp_datapath::xdp::XdpMode;

/// Interfaces above an interface, those next to it first.
fn above(facts: &HostFacts, interface: u32) -> Vec<u32> {
    let mut found = vec![interface];
    let mut next = 0;
    while let Some(&lower) = found.get(next) {
        next += 1;
        let upper = facts.links.iter().filter(|link| link.below == Some(lower) && link.index != lower);
        for link in upper {
            if !found.contains(&link.index) {
                found.push(link.index);
            }
        }
    }
    found.remove(0);
    found
}

impl Shard {
    /// Detaches the program from interfaces above one that it is to be attached to. Gives them, those next to
    /// it first.
    pub(super) fn detach_above(&mut self, facts: &HostFacts, interface: u32) -> Vec<u32> {
        let attached: Vec<u32> =
            above(facts, interface).into_iter().filter(|upper| self.attachment(*upper).is_some()).collect();
        for upper in attached.iter().rev() {
            self.program.detach(*upper);
        }
        attached
    }

    /// Attaches the program to them again.
    pub(super) fn attach_above_again(&mut self, interfaces: &[u32]) {
        for &interface in interfaces {
            let Some(attachment) = self.attachment(interface) else { continue };
            let native = attachment.report.mode.as_deref() == Some(XdpMode::Native.as_str());
            let name = attachment.report.name.clone();
            let mode = if native { XdpMode::Native } else { XdpMode::Generic };
            if let Err(error) = self.program.attach(interface, mode) {
                tracing::error!("{name} receives nothing any more: {error}");
            }
        }
    }
}
