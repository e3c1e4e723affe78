//! A gateway in this process, with a sandbox Sendly behind it, as the tests with Sendly's SDKs need one.

use std::time::Duration;

/// A phone to which the sandbox cannot deliver: a send succeeds, and then the verification is pending with `delivery_status` failed.
pub(crate) const UNDELIVERABLE: &str = "+15550100404";

/// A running gateway with the default limits. Dropping it stops it and its sandbox.
pub(crate) struct Gateway {
    url: String,
}

/// Starts a gateway and a sandbox, each on a free port of 127.0.0.1, and returns when both answer.
pub(crate) fn start() -> Gateway {
    panic!("tests/support/gateway.rs: start() is not connected to the gateway yet")
}

impl Gateway {
    /// Where the SDKs are pointed: `http://127.0.0.1:PORT/api/v1`.
    pub(crate) fn base_url(&self) -> String {
        format!("{}/api/v1", self.url)
    }

    /// How many codes the sandbox has sent to this phone: sends and resends that it executed, whoever got their answers.
    pub(crate) fn codes(&self, phone: &str) -> usize {
        unreachable!("{phone}")
    }

    /// From now on the sandbox executes a request at once and answers it this much later.
    pub(crate) fn delay_answers(&self, by: Duration) {
        unreachable!("{by:?}")
    }
}
