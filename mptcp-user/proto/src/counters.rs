//! What happened, by name. Where the Linux kernel counts the same thing, the name is the kernel's, as `nstat` prints
//! it (`TcpExt…`, `MPTcpExt…`); what only this stack counts begins with `Mptcp`.
//!
//! An endpoint has one plain number for each: it belongs to one thread, so that counting is an addition. Whatever is
//! malformed, not authentic or out of place is counted here by the code that ignores or answers it; what leaves is
//! counted in one place, [`Counters::sent`].

use crate::wire::{Dss, Flags, MptcpOption, Segment};
use std::ops::AddAssign;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)*) => {
        /// One thing that is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Counter {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Counter] = &[$(Counter::$name,)*];

            /// Its name for people and programs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$name => $text,)*
                }
            }
            /// What it counts, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Counter::$name => concat!($($doc),+).trim_ascii(),)*
                }
            }
        }
    };
}

counters! {
    /// Connections that this side began to open.
    ActiveOpens = "TcpActiveOpens";
    /// Connections that a peer began to open.
    PassiveOpens = "TcpPassiveOpens";
    /// Connections that ended before they were established.
    AttemptFails = "TcpAttemptFails";
    /// Established connections that ended by a reset, an abort or the loss of all paths.
    EstabResets = "TcpEstabResets";
    /// Connections that are established now.
    CurrEstab = "TcpCurrEstab";
    /// Packets received.
    InSegs = "TcpInSegs";
    /// Packets sent, as far as this side cuts them.
    OutSegs = "TcpOutSegs";
    /// Segments sent again on the subflow that had them.
    RetransSegs = "TcpRetransSegs";
    /// Resets sent.
    OutRsts = "TcpOutRsts";
    /// SYN cookies sent: the listener's backlog was full.
    SyncookiesSent = "TcpExtSyncookiesSent";
    /// SYN cookies that came back and were good.
    SyncookiesRecv = "TcpExtSyncookiesRecv";
    /// Acknowledgments without a connection, while cookies were out, that were none.
    SyncookiesFailed = "TcpExtSyncookiesFailed";
    /// SYNs dropped because the endpoint had all the connections it may have.
    ListenOverflows = "TcpExtListenOverflows";
    /// Segments dropped because their timestamp was from the past.
    PawsEstab = "TcpExtPAWSEstab";
    /// ICMP errors that quoted nothing that was in flight.
    OutOfWindowIcmps = "TcpExtOutOfWindowIcmps";
    /// Retransmission timeouts.
    Timeouts = "TcpExtTCPTimeouts";
    /// SYNs, SYN/ACKs and third ACKs sent again.
    SynRetrans = "TcpExtTCPSynRetrans";
    /// Times a loss was found without a timeout.
    SackRecovery = "TcpExtTCPSackRecovery";
    /// Tail loss probes sent.
    LossProbes = "TcpExtTCPLossProbes";
    /// Keep-alive probes sent.
    KeepAlive = "TcpExtTCPKeepAlive";
    /// Segments dropped because nothing could be kept any more, not even in order.
    RcvQDrop = "TcpExtTCPRcvQDrop";
    /// Segments that came before those they follow, dropped because too much was kept already.
    OfoDrop = "TcpExtTCPOFODrop";
    /// Probes of a closed window sent.
    WinProbe = "TcpExtTCPWinProbe";
    /// Connections and subflows given up because nothing was acknowledged for too long.
    AbortOnTimeout = "TcpExtTCPAbortOnTimeout";
    /// Segments out of place that were answered with a challenge acknowledgment (RFC 5961).
    ChallengeAck = "TcpExtTCPChallengeACK";
    /// The same, not answered: enough were answered in that second.
    AckSkippedChallenge = "TcpExtTCPACKSkippedChallenge";
    /// SYNs in the middle of a connection.
    SynChallenge = "TcpExtTCPSYNChallenge";

    /// SYNs with MP_CAPABLE received by a listener.
    MpCapableSynRx = "MPTcpExtMPCapableSYNRX";
    /// Connections opened with MP_CAPABLE.
    MpCapableSynTx = "MPTcpExtMPCapableSYNTX";
    /// SYN/ACKs with MP_CAPABLE received.
    MpCapableSynAckRx = "MPTcpExtMPCapableSYNACKRX";
    /// Third ACKs with MP_CAPABLE received.
    MpCapableAckRx = "MPTcpExtMPCapableACKRX";
    /// Fallbacks because the third ACK came without the option.
    MpCapableFallbackAck = "MPTcpExtMPCapableFallbackACK";
    /// Fallbacks because the SYN/ACK came without the option.
    MpCapableFallbackSynAck = "MPTcpExtMPCapableFallbackSYNACK";
    /// SYNs with MP_CAPABLE that were not answered, so that the option was left out.
    MpCapableSynTxDrop = "MPTcpExtMPCapableSYNTXDrop";
    /// Connections opened without MP_CAPABLE because the destination is known as one that does not like it.
    MpCapableSynTxDisabled = "MPTcpExtMPCapableSYNTXDisabled";
    /// Segments with data that was sent on another subflow before.
    MptcpRetrans = "MPTcpExtMPTCPRetrans";
    /// SYNs with MP_JOIN and a token of no connection.
    MpJoinNoToken = "MPTcpExtMPJoinNoTokenFound";
    /// SYNs with MP_JOIN received.
    MpJoinSynRx = "MPTcpExtMPJoinSynRx";
    /// Those that ask for a backup subflow.
    MpJoinSynBackupRx = "MPTcpExtMPJoinSynBackupRx";
    /// SYN/ACKs with MP_JOIN received.
    MpJoinSynAckRx = "MPTcpExtMPJoinSynAckRx";
    /// Those that ask for a backup subflow.
    MpJoinSynAckBackupRx = "MPTcpExtMPJoinSynAckBackupRx";
    /// SYN/ACKs of a join whose HMAC was wrong or missing.
    MpJoinSynAckHmacFailure = "MPTcpExtMPJoinSynAckHMacFailure";
    /// Third ACKs of a join received.
    MpJoinAckRx = "MPTcpExtMPJoinAckRx";
    /// Third ACKs of a join whose HMAC was wrong.
    MpJoinAckHmacFailure = "MPTcpExtMPJoinAckHMacFailure";
    /// Joins refused: too many subflows, or the connection is not (or not yet, or no more) Multipath TCP.
    MpJoinRejected = "MPTcpExtMPJoinRejected";
    /// SYNs with MP_JOIN: subflows that this side began to open.
    MpJoinSynTx = "MPTcpExtMPJoinSynTx";
    /// Subflows that could not be opened: no route, or no free port.
    MpJoinSynTxConnectErr = "MPTcpExtMPJoinSynTxConnectErr";
    /// Mappings that contradict an earlier one.
    DssNotMatching = "MPTcpExtDSSNotMatching";
    /// Fallbacks because the path changes data or drops mappings.
    DssCorruptionFallback = "MPTcpExtDSSCorruptionFallback";
    /// Subflows reset because the path changes data or drops mappings.
    DssCorruptionReset = "MPTcpExtDSSCorruptionReset";
    /// Infinite mappings sent.
    InfiniteMapTx = "MPTcpExtInfiniteMapTx";
    /// Infinite mappings received.
    InfiniteMapRx = "MPTcpExtInfiniteMapRx";
    /// Mappings of octets that lie outside the subflow's window.
    DssNoMatchTcp = "MPTcpExtDSSNoMatchTCP";
    /// Wrong DSS checksums.
    DataCsumErr = "MPTcpExtDataCsumErr";
    /// Pieces of data that came before those they follow.
    OfoQueue = "MPTcpExtOFOQueue";
    /// Pieces of data, or parts of them, outside the data-level window.
    NoDssInWindow = "MPTcpExtNoDSSInWindow";
    /// Pieces of data that had come already.
    DuplicateData = "MPTcpExtDuplicateData";
    /// Authentic ADD_ADDRs received.
    AddAddr = "MPTcpExtAddAddr";
    /// ADD_ADDRs sent.
    AddAddrTx = "MPTcpExtAddAddrTx";
    /// Addresses that were not announced because there were too many.
    AddAddrTxDrop = "MPTcpExtAddAddrTxDrop";
    /// Echoes of our ADD_ADDRs received.
    EchoAdd = "MPTcpExtEchoAdd";
    /// Echoes of the peer's ADD_ADDRs sent.
    EchoAddTx = "MPTcpExtEchoAddTx";
    /// Echoes that found no room; the peer announces the address again.
    EchoAddTxDrop = "MPTcpExtEchoAddTxDrop";
    /// ADD_ADDRs with a port received.
    PortAdd = "MPTcpExtPortAdd";
    /// ADD_ADDRs ignored: the address can't be used, or too many are known.
    AddAddrDrop = "MPTcpExtAddAddrDrop";
    /// REMOVE_ADDRs received.
    RmAddr = "MPTcpExtRmAddr";
    /// Identifiers in REMOVE_ADDRs that name no address of the peer.
    RmAddrDrop = "MPTcpExtRmAddrDrop";
    /// REMOVE_ADDRs sent.
    RmAddrTx = "MPTcpExtRmAddrTx";
    /// Identifiers of addresses that are gone and found no room in a REMOVE_ADDR.
    RmAddrTxDrop = "MPTcpExtRmAddrTxDrop";
    /// Subflows closed because an address of theirs is gone.
    RmSubflow = "MPTcpExtRmSubflow";
    /// MP_PRIOs sent.
    MpPrioTx = "MPTcpExtMPPrioTx";
    /// MP_PRIOs received.
    MpPrioRx = "MPTcpExtMPPrioRx";
    /// MP_FAILs sent.
    MpFailTx = "MPTcpExtMPFailTx";
    /// MP_FAILs received.
    MpFailRx = "MPTcpExtMPFailRx";
    /// MP_FASTCLOSEs sent.
    MpFastcloseTx = "MPTcpExtMPFastcloseTx";
    /// MP_FASTCLOSEs with our key received.
    MpFastcloseRx = "MPTcpExtMPFastcloseRx";
    /// MP_TCPRSTs sent.
    MpRstTx = "MPTcpExtMPRstTx";
    /// MP_TCPRSTs received.
    MpRstRx = "MPTcpExtMPRstRx";
    /// Subflows whose path came to be suspected dead.
    SubflowStale = "MPTcpExtSubflowStale";
    /// Such subflows that delivered again.
    SubflowRecover = "MPTcpExtSubflowRecover";
    /// Established connections that are Multipath TCP now.
    MpCurrEstab = "MPTcpExtMPCurrEstab";
    /// Destinations that came to be known as not liking Multipath TCP.
    Blackhole = "MPTcpExtBlackhole";
    /// Fallbacks because the first data came, or was acknowledged, without the option.
    MpCapableDataFallback = "MPTcpExtMPCapableDataFallback";
    /// Fallbacks because later data came without a mapping.
    DssFallback = "MPTcpExtDssFallback";
    /// Fallbacks because both sides sent a SYN.
    SimultConnectFallback = "MPTcpExtSimultConnectFallback";
    /// Fallbacks that were not possible any more: the subflow was reset.
    FallbackFailed = "MPTcpExtFallbackFailed";
    /// Data-level probes of a closed window.
    MptcpWinProbe = "MPTcpExtWinProbe";

    /// Options of a known kind whose length or content was wrong.
    MalformedOption = "MptcpMalformedOption";
    /// Multipath TCP options in a segment where they mean nothing.
    OptionOutOfPlace = "MptcpOptionOutOfPlace";
    /// Segments of no connection, answered with a reset.
    NoConnection = "MptcpNoConnection";
    /// Segments without a subflow for an address that is not this host's, or not one host's: not answered.
    ForeignDestination = "MptcpForeignDestination";
    /// Segments without a subflow from an address that no peer can have: not answered.
    MartianSource = "MptcpMartianSource";
    /// Segments without a subflow from peers that a rule refuses: not answered.
    PeerRefused = "MptcpPeerRefused";
    /// Answers that were not sent because too many waited.
    ReplyDropped = "MptcpReplyDropped";
    /// Segments outside the subflow's receive window.
    OutOfWindow = "MptcpOutOfWindow";
    /// Segments that acknowledge what was never sent, or what is long past.
    BadAck = "MptcpBadAck";
    /// Segments without the ACK flag where it has to be.
    NoAck = "MptcpNoAck";
    /// Resets whose sequence number was not the next one.
    BadReset = "MptcpBadReset";
    /// Third ACKs whose MP_CAPABLE has keys that are not those of the connection.
    BadKeys = "MptcpBadKeys";
    /// MP_CAPABLEs that ask for something this stack (or this listener) does not do.
    CapableUnusable = "MptcpCapableUnusable";
    /// Segments on a joined subflow before the third ACK with its HMAC.
    JoinAckMissing = "MptcpJoinAckMissing";
    /// Joins that were not completed and made room for others, or ran out of time.
    JoinForgotten = "MptcpJoinForgotten";
    /// Connections of which something would have waited for ever: a fault of this stack, made good.
    DeadlineMissing = "MptcpDeadlineMissing";
    /// Keys drawn again because another connection had the token.
    TokenCollision = "MptcpTokenCollision";
    /// Data ACKs of data that was never sent.
    BadDataAck = "MptcpBadDataAck";
    /// Times octets went again over a faster subflow because the peer's window waited for them.
    OpportuneRetrans = "MptcpOpportuneRetrans";
    /// Times the congestion window of a subflow was halved because the peer's window waited for what it carries.
    Penalised = "MptcpPenalised";
    /// Probes of paths over which nothing was heard, or acknowledged, for long.
    PathProbe = "MptcpPathProbe";
    /// Subflows that did not answer, and whose place another one between the same addresses was to take.
    SubflowDoubled = "MptcpSubflowDoubled";
    /// Mappings to before the beginning of the data.
    BadMapping = "MptcpBadMapping";
    /// Mappings with a checksum that was not negotiated, or without one that was.
    DssChecksumUnagreed = "MptcpDssChecksumUnagreed";
    /// Subflows reset because data was acknowledged there without a Data ACK.
    DataAckMissing = "MptcpDataAckMissing";
    /// Mappings ignored because too many waited for their octets.
    MappingOverflow = "MptcpMappingOverflow";
    /// DATA_FINs that contradict an earlier one, or data that has come.
    BadDataFin = "MptcpBadDataFin";
    /// ADD_ADDRs whose HMAC was wrong or missing.
    AddAddrHmacFailure = "MptcpAddAddrHMacFailure";
    /// Echoes of ADD_ADDRs that this side never sent.
    BadEcho = "MptcpBadEcho";
    /// MP_FASTCLOSEs with a wrong key.
    BadFastclose = "MptcpBadFastclose";
    /// REMOVE_ADDRs that would have ended the last subflow.
    RmAddrLast = "MptcpRmAddrLast";
    /// Events that nobody fetched in time.
    DecisionsLost = "MptcpDecisionsLost";
}

/// Number of counters.
const COUNT: usize = Counter::ALL.len();

/// All counters of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters([u64; COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; COUNT])
    }
}

impl Counters {
    /// One of them.
    #[inline]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// All of them with their values, in the order of [`Counter::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|counter| (*counter, self.get(*counter)))
    }

    /// It happened so many times.
    #[inline]
    pub(crate) fn add(&mut self, counter: Counter, times: u64) {
        let value = &mut self.0[counter as usize];
        *value = value.wrapping_add(times);
    }

    /// A number that goes up and down.
    pub(crate) fn set(&mut self, counter: Counter, value: u64) {
        self.0[counter as usize] = value;
    }

    /// A segment leaves.
    #[inline]
    pub(crate) fn sent(&mut self, segment: &Segment) {
        self.add(Counter::OutSegs, segment.packets() as u64);
        let plain = match &segment.options.mptcp[..] {
            [] => true,
            [MptcpOption::Dss(dss)] => !dss.is_infinite(),
            _ => false,
        };
        if !plain || segment.flags.has(Flags::RST) {
            self.sent_rarely(segment);
        }
    }

    #[cold]
    fn sent_rarely(&mut self, segment: &Segment) {
        self.add(Counter::OutRsts, u64::from(segment.flags.has(Flags::RST)));
        for option in &segment.options.mptcp {
            let counter = match option {
                MptcpOption::Dss(dss) if dss.is_infinite() => Counter::InfiniteMapTx,
                MptcpOption::AddAddr(add) if add.echo => Counter::EchoAddTx,
                MptcpOption::AddAddr(_) => Counter::AddAddrTx,
                MptcpOption::RemoveAddr(_) => Counter::RmAddrTx,
                MptcpOption::Priority { .. } => Counter::MpPrioTx,
                MptcpOption::Fail(_) => Counter::MpFailTx,
                MptcpOption::FastClose(_) => Counter::MpFastcloseTx,
                MptcpOption::Reset(_) => Counter::MpRstTx,
                MptcpOption::Dss(Dss { .. }) | MptcpOption::Capable(_) | MptcpOption::Join(_) => continue,
            };
            self.add(counter, 1);
        }
    }

    /// A segment came in: what the parser had to say of it.
    #[inline]
    pub(crate) fn received(&mut self, segment: &Segment) {
        self.add(Counter::InSegs, segment.packets() as u64);
        if segment.options.malformed > 0 {
            self.add(Counter::MalformedOption, u64::from(segment.options.malformed));
        }
    }
}

impl AddAssign<&Counters> for Counters {
    fn add_assign(&mut self, other: &Counters) {
        for (value, more) in self.0.iter_mut().zip(other.0) {
            *value = value.wrapping_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_there_once_and_says_whose_it_is() {
        let names: BTreeSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names.len(), COUNT);
        for counter in Counter::ALL {
            let known = ["Tcp", "MPTcpExt", "Mptcp"].iter().any(|prefix| counter.name().starts_with(prefix));
            assert!(known && counter.meaning().ends_with('.'), "{counter:?}: {}", counter.meaning());
        }
    }
}
