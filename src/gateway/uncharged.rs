//! How a request ends for which this process asks Sendly for no code: refused, turned away, repeated, or served by another process.

use super::Request;
use super::downstream::Caller;
use super::patience::Patience;
use super::reply::Reply;
use super::retries::{Click, Ending, Ticket};
use super::successor::{Served, Successor};
use crate::metrics::Outcome;
use crate::yielding::yield_to_ready_tasks;

/// Has another process serve a request that has a place here already. Those who have joined it are told the same.
pub(crate) async fn serve_there<C: Caller>(
    successor: &Successor,
    caller: &mut C,
    patience: &mut Patience<'_>,
    mut click: Click<'_>,
) -> Result<(), C::Error> {
    // Boxed: hardly any request goes there, and all are moved with room for it.
    let Served { reply, told } = Box::pin(successor.serve(caller, patience)).await?;
    click.refuse(&reply, Ending::Nothing);
    if told {
        click.delivered();
    }
    Ok(())
}

/// Ends a click of which Sendly was not asked for a code.
pub(crate) async fn stop<C: Caller>(
    caller: &mut C,
    patience: &Patience<'_>,
    mut click: Click<'_>,
    reply: Reply,
    ending: Ending,
) -> Result<(), C::Error> {
    yield_to_ready_tasks().await;
    click.refuse(&reply, ending);
    if patience.tell(caller, &reply).await? {
        click.delivered();
    }
    Ok(())
}

/// Gives a retry the answer of the exchange that it repeats.
pub(crate) async fn repeat<C: Caller>(
    caller: &mut C,
    request: &mut Request,
    mut ticket: Ticket<'_>,
    patience: &mut Patience<'_>,
) -> Result<(), C::Error> {
    request.outcome = Outcome::Retry;
    let reply = patience.watch(caller, ticket.answer(), || ticket.give_up()).await;
    if patience.tell(caller, &reply).await? {
        ticket.delivered();
    }
    Ok(())
}

/// Ends a click because of its key, or of its id.
pub(crate) async fn turn_away<C: Caller>(
    caller: &mut C,
    request: &mut Request,
    patience: &Patience<'_>,
    click: Click<'_>,
    reply: Reply,
) -> Result<(), C::Error> {
    request.outcome = Outcome::Rejected;
    stop(caller, patience, click, reply, Ending::Nothing).await
}

pub(crate) async fn reject<C: Caller>(caller: &mut C, request: &mut Request, reply: Reply) -> Result<(), C::Error> {
    request.outcome = Outcome::Rejected;
    caller.refuse(reply).await
}
