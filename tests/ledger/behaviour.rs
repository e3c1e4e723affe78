//! Promises shown by example. Read them as the ledger's manual.

use sendly_gateway::ledger::{Settlement, Verdict};
use sendly_gateway::policy::{Counts, Key, Kind, Obstacle, Per, Refusal};

use super::world::*;
use Kind::{Resend, Send};

fn phone_key() -> Key {
    Key::Phone(phone(0))
}

fn verification_key(nth: usize) -> Key {
    Key::Verification(verification(nth))
}

// ---- windows ---------------------------------------------------------------------------------------------------------------

pub fn a_code_leaves_the_window_to_the_microsecond(new: New) {
    let (ledger, policy, phone) = (new(), policy([limit(Per::Phone, 2, MINUTE)]), only(phone_key()));
    buy(&ledger, &policy, &phone, Send, START);
    buy(&ledger, &policy, &phone, Send, START + SECOND);
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + SECOND), Some(MINUTE - SECOND));
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + MINUTE - MICRO), Some(MICRO));
    buy(&ledger, &policy, &phone, Send, START + MINUTE);
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + MINUTE), Some(SECOND), "now the second is the oldest");
}

pub fn a_limit_judges_only_what_it_counts(new: New) {
    let policy = policy([counting(Counts::RESENDS, limit(Per::Verification, 1, MINUTE))]);
    let (ledger, verification) = (new(), only(verification_key(0)));
    for _ in 0..3 {
        buy(&ledger, &policy, &verification, Send, START);
    }
    buy(&ledger, &policy, &verification, Resend, START);
    assert_eq!(wait_of(&ledger, &policy, &verification, Resend, START), Some(MINUTE));
    assert_eq!(wait_of(&ledger, &policy, &verification, Send, START), None);
}

pub fn limits_on_sends_and_on_resends_share_one_log(new: New) {
    let sends = counting(SENDS, limit(Per::Phone, 1, HOUR));
    let resends = counting(Counts::RESENDS, limit(Per::Phone, 2, MINUTE));
    let (ledger, policy, phone) = (new(), policy([sends, resends]), only(phone_key()));
    buy(&ledger, &policy, &phone, Send, START);
    // Far more resends than either limit's max: they must not push the one send out.
    for nth in 0..40 {
        buy(&ledger, &policy, &phone, Resend, START + MINUTE / 2 * nth);
    }
    let now = START + MINUTE / 2 * 39;
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, now), Some((START + HOUR).since(now)));
    assert_eq!(wait_of(&ledger, &policy, &phone, Resend, now), Some(MINUTE / 2));
}

pub fn limits_of_one_subject_are_all_asked_and_the_longest_wait_speaks(new: New) {
    let limits = [
        limit(Per::Phone, 1, MINUTE),
        limit(Per::Account, 1, HOUR),
        limit(Per::Verification, 1, MINUTE * 2),
        shadow(limit(Per::Phone, 1, HOUR * 2)),
        limit(Per::Phone, 9, HOUR * 3),
    ];
    let (ledger, policy) = (new(), policy(limits));
    buy(&ledger, &policy, &subject(0, 0, 0), Resend, START);
    let (decision, _) = ask(&ledger, &policy, &subject(0, 0, 0), Resend, START);
    assert_eq!(decision.refusal, Some(Refusal { by: Obstacle::Limit(1), retry_after: HOUR }));
    assert_eq!([0, 1, 2, 3, 4, 5].map(|place| decision.met.contains(place)), [true, true, true, true, true, false]);
    assert_eq!([0, 1, 2, 3, 4].map(|place| decision.reached.contains(place)), [true, true, true, true, false]);
}

pub fn a_refusal_charges_nothing_anywhere(new: New) {
    let policy = policy([limit(Per::Phone, 5, HOUR), limit(Per::Verification, 5, HOUR), limit(Per::Account, 1, HOUR)]);
    let ledger = new();
    buy(&ledger, &policy, &subject(0, 0, 0), Resend, START);
    for nth in 0..20 {
        let (_, verdict) = ask(&ledger, &policy, &subject(nth % 2, nth % 2, 0), Resend, START + SECOND);
        assert!(matches!(verdict, Verdict::Refused(_)));
    }
    let once = (vec![], vec![START], None);
    for key in [phone_key(), verification_key(0), Key::Account(account(0))] {
        assert_eq!(contents(&ledger, key, START + MINUTE), once, "{key:?}");
    }
    for key in [Key::Phone(phone(1)), verification_key(1)] {
        assert_eq!(contents(&ledger, key, START + MINUTE), (vec![], vec![], None), "{key:?}");
    }
}

// ---- settling --------------------------------------------------------------------------------------------------------------

pub fn a_dropped_reservation_is_kept(new: New) {
    let (ledger, policy, phone) = (new(), policy([limit(Per::Phone, 1, MINUTE)]), only(phone_key()));
    drop(take(&ledger, &policy, &phone, Send, START));
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START), Some(MINUTE));

    let task = std::panic::AssertUnwindSafe(|| {
        let _reservation = take(&ledger, &policy, &phone, Send, START + MINUTE);
        std::panic::resume_unwind(Box::new("the task that holds it panics"));
    });
    assert!(std::panic::catch_unwind(task).is_err());
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + MINUTE), Some(MINUTE));
}

pub fn a_reservation_is_settled_once_and_alone(new: New) {
    let (ledger, policy, phone) = (new(), policy([limit(Per::Phone, 9, HOUR)]), only(phone_key()));
    // Four of the same microsecond: settling one, which drops it too, must not touch the others.
    let four = [(); 4].map(|()| take(&ledger, &policy, &phone, Send, START));
    let held = |now| contents(&ledger, phone_key(), now).0.len();
    let [kept, given_back, dropped, open] = four;
    wait(kept.settle(Settlement::Keep));
    assert_eq!(held(START), 4);
    wait(given_back.settle(Settlement::GiveBack));
    assert_eq!(held(START), 3);
    drop(dropped);
    assert_eq!(held(START), 3);
    wait(open.settle(Settlement::GiveBack));
    assert_eq!(contents(&ledger, phone_key(), START), (vec![START, START], vec![], None));
}

pub fn giving_back_takes_one_of_two_codes_of_the_same_microsecond(new: New) {
    let (ledger, policy, phone) = (new(), policy([limit(Per::Phone, 2, MINUTE)]), only(phone_key()));
    let send = take(&ledger, &policy, &phone, Send, START);
    let resend = take(&ledger, &policy, &phone, Resend, START);
    wait(send.settle(Settlement::GiveBack));
    assert_eq!(contents(&ledger, phone_key(), START), (vec![], vec![START], None), "of its own kind");
    let another = take(&ledger, &policy, &phone, Resend, START);
    assert_eq!(wait_of(&ledger, &policy, &phone, Resend, START), Some(MINUTE));
    wait(resend.settle(Settlement::GiveBack));
    wait(another.settle(Settlement::Keep));
    assert_eq!(contents(&ledger, phone_key(), START), (vec![], vec![START], None));
}

pub fn giving_back_late_is_exact_when_shadow_limits_are_far_over_their_max(new: New) {
    // Nothing is refused, so the log runs far over every max; what was pushed out must not be missing once the newest are
    // given back.
    let shadows = policy([
        shadow(limit(Per::Phone, 2, HOUR)),
        shadow(counting(SENDS, limit(Per::Phone, 3, HOUR))),
        shadow(counting(Counts::RESENDS, limit(Per::Phone, 1, HOUR))),
    ]);
    let enforced = policy([limit(Per::Phone, 2, HOUR)]);
    let (ledger, phone) = (new(), only(phone_key()));
    buy(&ledger, &shadows, &phone, Send, START);
    buy(&ledger, &shadows, &phone, Resend, START + SECOND);
    let open: Vec<_> = (2..50)
        .map(|nth| take(&ledger, &shadows, &phone, if nth % 3 == 0 { Resend } else { Send }, START + SECOND * nth))
        .collect();
    for reservation in open {
        wait(reservation.settle(Settlement::GiveBack));
    }
    assert_eq!(contents(&ledger, phone_key(), START + MINUTE), (vec![START], vec![START + SECOND], None));
    assert_eq!(wait_of(&ledger, &enforced, &phone, Send, START + MINUTE), Some(HOUR - MINUTE));
}

pub fn giving_back_is_exact_whichever_of_many_it_is(new: New) {
    let shadows = policy([shadow(limit(Per::Phone, 3, HOUR))]);
    // Every way in which six codes can be kept or given back, in both orders.
    for given_back in 0..1_u32 << 6 {
        for reversed in [false, true] {
            let (ledger, phone) = (new(), only(phone_key()));
            let mut open: Vec<_> =
                (0..6).map(|nth| (nth, take(&ledger, &shadows, &phone, Send, START + SECOND * nth))).collect();
            if reversed {
                open.reverse();
            }
            for (nth, reservation) in open {
                let back = given_back >> nth & 1 == 1;
                wait(reservation.settle(if back { Settlement::GiveBack } else { Settlement::Keep }));
            }
            let kept = (0..6).rev().filter(|nth| given_back >> nth & 1 == 0).map(|nth| START + SECOND * nth);
            let (sends, ..) = contents(&ledger, phone_key(), START + MINUTE);
            let newest = |sends: Vec<_>| sends.into_iter().take(3).collect::<Vec<_>>();
            assert_eq!(newest(sends), newest(kept.collect()), "{given_back:06b} {reversed}");
        }
    }
}

pub fn giving_back_reopens_no_window_for_a_clock_that_is_behind(new: New) {
    let (ledger, policy, phone) = (new(), policy([limit(Per::Phone, 1, SECOND)]), only(phone_key()));
    buy(&ledger, &policy, &phone, Send, START);
    // Just when the first leaves the window another comes, and is given back. A third, whose thread read its clock a
    // microsecond earlier, still finds the first in its window.
    wait(take(&ledger, &policy, &phone, Send, START + SECOND).settle(Settlement::GiveBack));
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + SECOND - MICRO), Some(MICRO));
}

pub fn a_clock_that_is_behind_gets_no_more(new: New) {
    let (ledger, policy, phone) = (new(), policy([limit(Per::Phone, 2, MINUTE)]), only(phone_key()));
    buy(&ledger, &policy, &phone, Send, START);
    let late = take(&ledger, &policy, &phone, Send, START - SECOND);
    assert_eq!(late.at(), START, "it is charged as of the newest");
    // The wait is told from the caller's clock, behind as it is.
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START - HOUR), Some(HOUR + MINUTE));
    wait(late.settle(Settlement::Keep));
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + MINUTE - MICRO), Some(MICRO));
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + MINUTE), None);
}

// ---- recording and holding -------------------------------------------------------------------------------------------------

pub fn a_recorded_code_counts_from_when_it_went_out(new: New) {
    let (ledger, policy, phone) = (new(), policy([limit(Per::Phone, 2, MINUTE)]), only(phone_key()));
    buy(&ledger, &policy, &phone, Send, START + SECOND);
    wait(ledger.record(&policy, phone_key(), Resend, START));
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + SECOND), Some(MINUTE - SECOND));
    // It is not judged: a code that is out counts, however many there are.
    wait(ledger.record(&policy, phone_key(), Resend, START + SECOND * 2));
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + SECOND * 2), Some(MINUTE - SECOND));
}

pub fn a_hold_refuses_until_its_end_and_an_earlier_end_changes_nothing(new: New) {
    let (ledger, policy, phone) = (new(), policy([limit(Per::Phone, 1, MINUTE)]), only(phone_key()));
    buy(&ledger, &policy, &phone, Send, START);
    wait(ledger.hold(phone_key(), START + HOUR, START));
    wait(ledger.hold(phone_key(), START + SECOND, START));
    let (decision, _) = ask(&ledger, &policy, &phone, Send, START);
    assert_eq!(decision.refusal, Some(Refusal { by: Obstacle::Hold, retry_after: HOUR }));
    assert_eq!(wait_of(&ledger, &policy, &phone, Resend, START + HOUR - MICRO), Some(MICRO));
    assert_eq!(wait_of(&ledger, &policy, &phone, Send, START + HOUR), None);
}

pub fn shadow_limits_refuse_nothing_not_even_for_a_hold(new: New) {
    let policy = policy([shadow(limit(Per::Phone, 1, HOUR)), shadow(limit(Per::Account, 100, HOUR))]);
    let ledger = new();
    wait(ledger.hold(phone_key(), START + HOUR, START));
    for nth in 0..5 {
        let (decision, verdict) = ask(&ledger, &policy, &subject(0, 0, 0), Send, START);
        assert!(matches!(verdict, Verdict::Reserved(_)));
        assert_eq!(decision.reached.contains(0), nth > 0, "but it is judged");
    }
}

// ---- absorbing -------------------------------------------------------------------------------------------------------------

pub fn what_is_absorbed_counts_in_full_also_within_one_microsecond(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Verification, 2, MINUTE)]));
    buy(&ledger, &policy, &only(verification_key(0)), Resend, START);
    buy(&ledger, &policy, &only(verification_key(1)), Resend, START);
    wait(ledger.absorb(&policy, verification_key(0), verification_key(1), START));
    // Two codes went out, though both in the same microsecond.
    assert_eq!(wait_of(&ledger, &policy, &only(verification_key(0)), Resend, START), Some(MINUTE));
}

pub fn absorbing_twice_counts_once(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Verification, 9, MINUTE)]));
    buy(&ledger, &policy, &only(verification_key(1)), Resend, START);
    for _ in 0..3 {
        wait(ledger.absorb(&policy, verification_key(0), verification_key(1), START));
    }
    assert_eq!(contents(&ledger, verification_key(0), START), (vec![], vec![START], None));
}

pub fn absorbing_moves_a_hold(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Verification, 1, MINUTE)]));
    wait(ledger.hold(verification_key(0), START + SECOND, START));
    wait(ledger.hold(verification_key(1), START + HOUR, START));
    wait(ledger.absorb(&policy, verification_key(0), verification_key(1), START));
    assert_eq!(wait_of(&ledger, &policy, &only(verification_key(0)), Resend, START), Some(HOUR));
}

pub fn giving_back_after_absorb_is_exact(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Verification, 1, MINUTE)]));
    let open = take(&ledger, &policy, &only(verification_key(1)), Resend, START);
    wait(ledger.absorb(&policy, verification_key(0), verification_key(1), START));
    assert_eq!(wait_of(&ledger, &policy, &only(verification_key(0)), Resend, START), Some(MINUTE));
    wait(open.settle(Settlement::GiveBack));
    assert_eq!(wait_of(&ledger, &policy, &only(verification_key(0)), Resend, START), None, "it never was");
}

pub fn keeping_after_absorb_is_exact(new: New) {
    let (ledger, shadows) = (new(), policy([shadow(limit(Per::Verification, 1, MINUTE))]));
    let open = [0, 1].map(|nth| take(&ledger, &shadows, &only(verification_key(nth)), Resend, START));
    wait(ledger.absorb(&shadows, verification_key(0), verification_key(1), START));
    wait(ledger.absorb(&shadows, verification_key(2), verification_key(0), START));
    let [kept, given_back] = open;
    wait(kept.settle(Settlement::Keep));
    wait(given_back.settle(Settlement::GiveBack));
    assert_eq!(contents(&ledger, verification_key(2), START), (vec![], vec![START], None));
}

pub fn absorbing_in_a_circle_ends(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Verification, 9, MINUTE)]));
    for nth in 0..3 {
        buy(&ledger, &policy, &only(verification_key(nth)), Resend, START);
    }
    for (into, from) in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0)] {
        wait(ledger.absorb(&policy, verification_key(into), verification_key(from), START));
    }
    for nth in 0..3 {
        assert_eq!(contents(&ledger, verification_key(nth), START), (vec![], vec![START; 3], None));
    }
}

pub fn a_request_that_still_knows_the_old_key_meets_what_was_absorbed(new: New) {
    let (ledger, policy) = (new(), policy([limit(Per::Verification, 2, MINUTE)]));
    let (root, old) = (only(verification_key(0)), only(verification_key(1)));
    buy(&ledger, &policy, &root, Resend, START);
    buy(&ledger, &policy, &old, Resend, START);
    wait(ledger.absorb(&policy, verification_key(0), verification_key(1), START));
    // It found its root before the two were joined, and asks after.
    assert_eq!(wait_of(&ledger, &policy, &old, Resend, START), Some(MINUTE));
    buy(&ledger, &policy, &old, Resend, START + MINUTE);
    assert_eq!(contents(&ledger, verification_key(0), START + MINUTE).1.first(), Some(&(START + MINUTE)));
}

// ---- limits that change ----------------------------------------------------------------------------------------------------

pub fn a_limit_that_changes_judges_what_is_logged(new: New) {
    let (ledger, phone) = (new(), only(phone_key()));
    let five_an_hour = policy([limit(Per::Phone, 5, HOUR)]);
    for nth in 0..5 {
        buy(&ledger, &five_an_hour, &phone, Send, START + SECOND * nth);
    }
    let now = START + SECOND * 4;
    // Fewer, longer, both: at once, over what is logged.
    let two_in_two_hours = policy([limit(Per::Phone, 2, HOUR * 2)]);
    assert_eq!(wait_of(&ledger, &two_in_two_hours, &phone, Send, now), Some(HOUR * 2 - SECOND));
    // Room for more: all five still count.
    let six_an_hour = policy([limit(Per::Phone, 6, HOUR)]);
    buy(&ledger, &six_an_hour, &phone, Send, now);
    assert_eq!(wait_of(&ledger, &six_an_hour, &phone, Send, now), Some(HOUR - SECOND * 4));
    // What a smaller limit needed no more is forgotten at its next charge. A larger one then counts what is left: it may let
    // through what the other forgot, and refuses nothing that it should not.
    let two_an_hour = policy([shadow(limit(Per::Phone, 2, HOUR))]);
    buy(&ledger, &two_an_hour, &phone, Send, now + SECOND);
    buy(&ledger, &two_an_hour, &phone, Send, now + SECOND * 2);
    assert_eq!(wait_of(&ledger, &two_an_hour, &phone, Send, now + SECOND * 2), None);
    let three_an_hour = policy([limit(Per::Phone, 2, HOUR), shadow(limit(Per::Phone, 3, HOUR))]);
    assert_eq!(wait_of(&ledger, &three_an_hour, &phone, Send, now + SECOND * 2), Some(HOUR - SECOND));
}

pub fn a_limit_that_is_removed_refuses_no_more_and_its_reservations_settle(new: New) {
    let (ledger, none) = (new(), policy([]));
    let policy = policy([limit(Per::Phone, 2, HOUR), limit(Per::Account, 2, HOUR)]);
    let [kept, given_back] = [(); 2].map(|()| take(&ledger, &policy, &subject(0, 0, 0), Send, START));
    assert!(wait_of(&ledger, &policy, &subject(0, 0, 0), Send, START).is_some());
    assert_eq!(wait_of(&ledger, &none, &subject(0, 0, 0), Send, START), None);
    wait(kept.settle(Settlement::Keep));
    wait(given_back.settle(Settlement::GiveBack));
    for key in [phone_key(), Key::Account(account(0))] {
        assert_eq!(contents(&ledger, key, START), (vec![START], vec![], None), "and is there if it comes back");
    }
}
