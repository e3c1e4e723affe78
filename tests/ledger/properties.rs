//! Promises over whatever may happen, in any order.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sendly_gateway::clock::Moment;
use sendly_gateway::ledger::{Reservation, Settlement};
use sendly_gateway::policy::{Key, Kind, Limit, Mode, Obstacle, Policy, Refusal};

use super::world::*;

/// Over many policies and sequences of events.
fn over<S: Strategy<Value = Event>>(events: S, check: impl Fn(Vec<Limit>, Vec<Event>) -> Result<(), TestCaseError>) {
    prove((policies(), sequences(events)), |(limits, events)| check(limits, events));
}

pub fn every_decision_is_the_models(new: New) {
    over(anything(), |limits, events| {
        let mut world = World::new(new(), limits);
        for event in &events {
            if let Some(answer) = world.step(event) {
                prop_assert_eq!(&answer.ledger, &answer.model, "at {}", world.now.as_micros());
                prop_assert_eq!(answer.charged, answer.expected);
            }
        }
        Ok(())
    });
}

pub fn limits_that_take_turns_judge_as_if_each_had_always_been_there(new: New) {
    let turns = prop::collection::vec(any::<bool>(), 80);
    prove((policies(), policies(), sequences(anything()), turns), |(one, other, events, turns)| {
        let mut world = World::new(new(), one.clone());
        for (event, turn) in events.iter().zip(turns) {
            // Both, each time: none is away for longer than its longest window.
            let (first, second) = if turn { (&one, &other) } else { (&other, &one) };
            world.reload(first);
            world.reload(second);
            if let Some(answer) = world.step(event) {
                prop_assert_eq!(&answer.ledger, &answer.model, "at {}", world.now.as_micros());
                prop_assert_eq!(answer.charged, answer.expected);
            }
        }
        Ok(())
    });
}

pub fn no_window_ever_holds_more_than_max(new: New) {
    over(forward(), |limits, events| windows_hold(new, limits, &events));
}

pub fn no_window_ever_holds_more_than_max_though_time_runs_backwards(new: New) {
    over(to_and_fro(), |limits, events| windows_hold(new, limits, &events));
}

/// Looks at nothing but what was let through, when, and was not given back by the end.
fn windows_hold(new: New, limits: Vec<Limit>, events: &[Event]) -> Result<(), TestCaseError> {
    let ledger = new();
    let mut world = World::new(ledger, limits);
    // As `World` orders its open reservations: what is given back leaves.
    let (mut open, mut out) = (Vec::new(), Vec::new());
    for event in events {
        let answer = world.step(event);
        match (event, answer) {
            (_, Some(answer)) => open.extend(answer.charged.map(|at| (answer.subject, answer.kind, at))),
            (Event::GiveBack(nth), None) if !open.is_empty() => {
                open.swap_remove(nth % open.len());
            }
            (Event::Keep(nth) | Event::Drop(nth), None) if !open.is_empty() => {
                out.push(open.swap_remove(nth % open.len()));
            }
            (Event::Advance(_), _) => out.extend(open.extract_if(.., |(.., at)| !may_be_open(*at, world.now))),
            _ => {}
        }
    }
    out.extend(open);
    let mut by_key: HashMap<Key, Vec<(Kind, Moment)>> = HashMap::new();
    for (subject, kind, at) in &out {
        subject.keys().into_iter().for_each(|key| by_key.entry(key).or_default().push((*kind, *at)));
    }
    for (key, codes) in &by_key {
        let enforced = |limit: &&Limit| limit.per == key.per() && limit.mode == Mode::Enforce;
        for limit in world.policy.limits().iter().filter(enforced) {
            let counted = || codes.iter().filter(|(kind, _)| limit.counts.includes(*kind)).map(|(_, at)| *at);
            for end in counted() {
                let inside = counted().filter(|at| *at > end - limit.window && *at <= end).count();
                prop_assert!(inside <= limit.max as usize, "{inside} codes of {key:?} in {limit:?}");
            }
        }
    }
    Ok(())
}

pub fn a_refusal_lasts_exactly_until_retry_after(new: New) {
    over(anything(), |limits, events| {
        let mut world = World::new(new(), limits);
        for event in &events {
            let Some((answer, refusal)) = refused_for_good(&mut world, event) else { continue };
            let at = |now| wait_of(&world.ledger, &world.policy, &answer.subject, answer.kind, now);
            prop_assert!(!refusal.retry_after.is_zero());
            prop_assert_eq!(at(world.now + refusal.retry_after - MICRO), Some(MICRO));
            prop_assert_eq!(at(world.now + refusal.retry_after), None);
        }
        Ok(())
    });
}

pub fn the_limit_that_speaks_is_the_last_to_let_go(new: New) {
    over(anything(), |limits, events| {
        let mut world = World::new(new(), limits);
        for event in &events {
            let Some((answer, refusal)) = refused_for_good(&mut world, event) else { continue };
            let last = world.now + refusal.retry_after - MICRO;
            let (decision, _) = ask(&world.ledger, &world.policy, &answer.subject, answer.kind, last);
            match refusal.by {
                Obstacle::Limit(place) => {
                    prop_assert!(decision.reached.contains(place));
                    prop_assert_eq!(world.policy.limits()[place].mode, Mode::Enforce);
                }
                Obstacle::Hold => prop_assert_eq!(decision.refusal.map(|last| last.retry_after), Some(MICRO)),
                Obstacle::Unsettled(_) | Obstacle::AccountHold => prop_assert!(false, "no store says so"),
            }
        }
        Ok(())
    });
}

/// The refusal of a request, once nothing is open that may turn out never to have been.
fn refused_for_good(world: &mut World, event: &Event) -> Option<(Answer, Refusal)> {
    let answer = world.step(event)?;
    answer.ledger.refusal?;
    world.close();
    let (decision, _) = ask(&world.ledger, &world.policy, &answer.subject, answer.kind, world.now);
    Some((answer, decision.refusal?))
}

pub fn what_rests_on_open_charges_passes_without_them_and_else_does_not(new: New) {
    over(forward(), |limits, events| {
        let mut world = World::new(new(), limits);
        for event in &events {
            let Some(answer) = world.step(event) else { continue };
            if answer.ledger.refusal.is_some() {
                let is_unsettled = answer.ledger.is_unsettled;
                world.give_all_back();
                let wait = wait_of(&world.ledger, &world.policy, &answer.subject, answer.kind, world.now);
                prop_assert_eq!(wait.is_none(), is_unsettled);
            }
        }
        Ok(())
    });
}

pub fn a_refusal_changes_nothing(new: New) {
    over(anything(), |limits, events| {
        let mut world = World::new(new(), limits);
        let mut refused = 0;
        for event in &events {
            // Looking at everything takes a while, so not for every refusal.
            if refused == 3 || !world.would_refuse(event) {
                world.step(event);
                continue;
            }
            refused += 1;
            let everything =
                |world: &World| -> Vec<_> { world.keys().map(|key| contents(&world.ledger, key, world.now)).collect() };
            let before = everything(&world);
            prop_assert!(world.step(event).is_some_and(|answer| answer.charged.is_none()));
            prop_assert_eq!(before, everything(&world));
        }
        Ok(())
    });
}

pub fn what_is_given_back_never_was(new: New) {
    // Shadow limits, so that the charges that will never have been turn no other away, and logs run far over their max.
    let extras = prop::collection::vec((any::<bool>(), 0..3_usize, any::<prop::sample::Index>()), 1..40);
    let strategy = (policies(), sequences(forward()), extras);
    prove(strategy, |(limits, events, extras)| {
        let shadows: Vec<_> = limits.iter().cloned().map(shadow).collect();
        let mut pure = World::new(new(), shadows.clone());
        let mut stirred = World::new(new(), shadows);
        let mut open = Vec::new();
        for (nth, event) in events.iter().enumerate() {
            let after = pure.after(event);
            for late in open.extract_if(.., |reservation: &mut Reservation| !may_be_open(reservation.at(), after)) {
                wait(late.settle(Settlement::GiveBack));
            }
            pure.step(event);
            stirred.step(event);
            for (resend, who, when) in extras.iter().filter(|(.., when)| when.index(events.len()) == nth) {
                let kind = if *resend { Kind::Resend } else { Kind::Send };
                open.push(take(&stirred.ledger, &stirred.policy, &subject(*who, *who, *who % 2), kind, stirred.now));
                if when.index(3) == 0 {
                    wait(open.swap_remove(when.index(open.len())).settle(Settlement::GiveBack));
                }
            }
        }
        open.into_iter().for_each(|reservation| wait(reservation.settle(Settlement::GiveBack)));
        // Not only whether, but until when each limit would refuse: asked of each limit by itself.
        let mut later = pure.now;
        for _ in 0..2 {
            for (key, limit) in pure.keys().flat_map(|key| limits.iter().map(move |limit| (key, limit))) {
                if key.per() == limit.per {
                    let kind = if limit.counts.send { Kind::Send } else { Kind::Resend };
                    let mut asked = limits.clone();
                    asked.iter_mut().for_each(|other| other.mode = Mode::Shadow);
                    asked.push(Limit { mode: Mode::Enforce, ..limit.clone() });
                    let asked = Policy::new(asked);
                    let [left, right] =
                        [&pure, &stirred].map(|world| wait_of(&world.ledger, &asked, &only(key), kind, later));
                    prop_assert_eq!(left, right, "{:?} of {:?} under {:?}", kind, key, limit);
                }
            }
            later = later + limits.iter().map(|limit| limit.window).min().unwrap() / 3;
        }
        Ok(())
    });
}

pub fn policies_of_shadows_refuse_nothing(new: New) {
    over(anything(), |limits, events| {
        let limits: Vec<_> = limits.into_iter().map(shadow).collect();
        let mut world = World::new(new(), limits);
        for event in &events {
            if let Some(answer) = world.step(event) {
                prop_assert!(answer.ledger.refusal.is_none());
                prop_assert!(answer.charged.is_some());
                prop_assert_eq!(&answer.ledger, &answer.model, "but they are judged");
            }
        }
        Ok(())
    });
}
