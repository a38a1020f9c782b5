//! The scheduler that `docs/extending.md` shows: the same text, which a test compares.

use super::{Candidate, Pick, Queue, Scheduler};

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct EarliestDelivery;

impl Scheduler for EarliestDelivery {
    fn name(&self) -> &'static str {
        "earliest-delivery"
    }

    fn pick(&mut self, candidates: &[Candidate], queue: &Queue) -> Option<Pick> {
        let when = |candidate: &Candidate| {
            let rtt = candidate.srtt.unwrap_or_default().as_secs_f64();
            let missing = queue.waiting().saturating_sub(candidate.room);
            rtt * (1.0 + missing as f64 / candidate.cwnd.max(1) as f64)
        };
        let best =
            (0..candidates.len()).min_by(|a, b| when(&candidates[*a]).total_cmp(&when(&candidates[*b])))?;
        candidates[best].takes(queue.waiting()).then(|| queue.next_on(best))
    }
}
