//! What a ledger promises, whichever store is behind its verbs.
//!
//! `behaves!` stamps the suite on a store. The arbiter is the naive model of `ledger/model.rs`: a list of every charge ever
//! taken, and limits judged by counting it.

#![allow(unreachable_pub, reason = "nothing outside can reach into a test")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics is a test that fails"
)]

mod asking;
mod behaviour;
mod documented;
mod durable;
mod memory;
mod model;
mod properties;
mod redis;
#[path = "../support/redis.rs"]
#[allow(dead_code, reason = "it serves several suites")]
mod server;
mod spellings;
mod threads;
mod world;

use std::sync::Arc;
use std::time::Duration;

use sendly_gateway::ledger::Ledger;
use sendly_gateway::ledger::memory::{Bounds, Memory};
use sendly_gateway::policy::WhenFull;

/// The suite, on the store that `$new` makes: an empty ledger with room for whatever a test does.
macro_rules! behaves {
    ($store:ident, $new:expr) => {
        behaves! { $store, $new;
            behaviour:
                a_code_leaves_the_window_to_the_microsecond
                a_limit_judges_only_what_it_counts
                limits_on_sends_and_on_resends_share_one_log
                limits_of_one_subject_are_all_asked_and_the_longest_wait_speaks
                a_refusal_charges_nothing_anywhere
                a_dropped_reservation_is_kept
                a_reservation_is_settled_once_and_alone
                giving_back_takes_one_of_two_codes_of_the_same_microsecond
                giving_back_late_is_exact_when_shadow_limits_are_far_over_their_max
                giving_back_is_exact_whichever_of_many_it_is
                giving_back_reopens_no_window_for_a_clock_that_is_behind
                a_clock_that_is_behind_gets_no_more
                a_recorded_code_counts_from_when_it_went_out
                a_hold_refuses_until_its_end_and_an_earlier_end_changes_nothing
                shadow_limits_refuse_nothing_not_even_for_a_hold
                what_is_absorbed_counts_in_full_also_within_one_microsecond
                absorbing_twice_counts_once
                absorbing_moves_a_hold
                giving_back_after_absorb_is_exact
                keeping_after_absorb_is_exact
                absorbing_in_a_circle_ends
                a_request_that_still_knows_the_old_key_meets_what_was_absorbed
                a_limit_that_changes_judges_what_is_logged
                a_limit_that_is_removed_refuses_no_more_and_its_reservations_settle;
            asking:
                a_look_says_what_the_next_code_would_be_told
                whatever_happens_a_look_says_what_the_model_does
                a_look_changes_nothing_and_shows_a_hold_until_its_end
                clearing_a_phone_gives_it_its_full_limits_and_touches_nobody_else
                clearing_a_phone_ends_the_cooldowns_of_its_verifications_under_any_spelling
                a_code_under_way_when_its_phone_is_cleared_gives_nothing_back
                whoever_asks_while_a_phone_is_cleared_gets_its_limit_before_and_after_and_no_more
                an_exempt_phone_is_never_refused_and_is_charged_to_itself_alone
                sendlys_hold_refuses_an_exempt_phone_too;
            properties:
                every_decision_is_the_models
                limits_that_take_turns_judge_as_if_each_had_always_been_there
                no_window_ever_holds_more_than_max
                no_window_ever_holds_more_than_max_though_time_runs_backwards
                a_refusal_lasts_exactly_until_retry_after
                the_limit_that_speaks_is_the_last_to_let_go
                what_rests_on_open_charges_passes_without_them_and_else_does_not
                a_refusal_changes_nothing
                what_is_given_back_never_was
                policies_of_shadows_refuse_nothing;
            spellings:
                whatever_a_phone_is_called_it_has_one_log_for_as_long_as_that_counts
                codes_that_go_to_two_spellings_in_turn_are_as_many_as_to_one;
            threads:
                one_phone_gets_exactly_max_from_many_threads
                many_phones_share_one_account_exactly
                what_threads_give_back_others_get_and_no_more
                opposite_lock_orders_do_not_deadlock
                reservations_settle_exactly_while_their_keys_are_absorbed
        }
    };
    ($store:ident, $new:expr; $($part:ident: $($promise:ident)*);*) => {
        mod $store {
            mod behaves {
                $($(#[test] fn $promise() { crate::$part::$promise($new) })*)*
            }
        }
    };
}

behaves!(in_memory, crate::ledger_in_memory);
behaves!(on_disk, crate::durable::unlinked);
behaves!(in_redis, crate::redis::ledger);

fn ledger_in_memory() -> Ledger {
    Ledger::Memory(Arc::new(Memory::new(Bounds {
        keys: 1_000_000,
        when_full: WhenFull::Refuse,
        verifications: 1_000_000,
        remember: Duration::from_secs(24 * 60 * 60),
    })))
}
