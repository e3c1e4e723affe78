//! A code that only charges stand in the way of that are not settled yet.

use std::pin::Pin;

use super::Gateway;
use super::admission_gate::Judging;
use super::settings::Settings;
use crate::ledger::Verdict;
use crate::ledger::waiting::Asked;
use crate::policy::Decision;

impl Gateway {
    /// Waits for those charges, and has the code judged then. Once another process is to judge, it is refused here and uncharged.
    ///
    /// It is boxed: few requests wait, and all are moved into their places.
    pub(crate) fn wait_and_reserve<'a>(
        &'a self,
        settings: &'a Settings,
        asked: Asked<'a>,
    ) -> Pin<Box<dyn Future<Output = (Decision, Verdict)> + Send + 'a>> {
        let now = || self.gate.judge().map(|judging: Judging<'a>| (self.clock.now(), judging));
        Box::pin(self.ledger.wait_and_reserve(asked, settings.config.limits_wait, now))
    }
}
