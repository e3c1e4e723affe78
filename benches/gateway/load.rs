//! The load: a few connections that ask, read the answer, and hold it against what it has to be. Either they ask again at once,
//! or when a timetable says so.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::drive::Drive;
use crate::http::Wire;
use crate::script::Script;

/// How long the last answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many connections begin to ask before the upstream gets a turn.
const AT_ONCE: usize = 64;

#[derive(Debug)]
struct Client {
    wire: Wire,
    /// Whose request is unanswered.
    asked: Option<u64>,
    /// When it was to be asked.
    due: Instant,
}

impl Client {
    /// Asks for the next of the script, if there is one.
    fn ask(&mut self, script: &mut Script, due: Instant) -> io::Result<bool> {
        let Some((phone, request)) = script.next() else { return Ok(false) };
        self.wire.send(request)?;
        (self.asked, self.due) = (Some(phone), due);
        Ok(true)
    }

    /// Whether what came is the answer.
    fn is_answered(&mut self, script: &mut Script, scratch: &mut [u8]) -> io::Result<bool> {
        let Self { wire, asked, .. } = self;
        let mut answered = false;
        let open = wire.receive(scratch, |head, message| {
            let phone = asked.take().ok_or_else(|| io::Error::other("an answer that nobody asked for"))?;
            let body = message.get(head.body()).unwrap_or_default();
            answered = true;
            script.mistake(phone, head.line(message), body).map_or(Ok(()), |mistake| Err(io::Error::other(mistake)))
        })?;
        if !open {
            return Err(io::Error::other("the connection was closed"));
        }
        Ok(answered)
    }
}

/// The connections of a visit.
#[derive(Debug)]
pub(crate) struct Load {
    clients: Vec<Client>,
}

impl Load {
    /// Connects. There may be one load at a time.
    pub(crate) fn open(drive: &Drive, address: SocketAddr, connections: usize) -> io::Result<Self> {
        let mut load = Self { clients: Vec::with_capacity(connections) };
        load.widen(drive, address, connections)?;
        Ok(load)
    }

    /// Connects some more.
    pub(crate) fn widen(&mut self, drive: &Drive, address: SocketAddr, connections: usize) -> io::Result<()> {
        let registry = drive.registry()?;
        for _ in 0..connections {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nonblocking(true)?;
            let wire = Wire::new(TcpStream::from_std(stream), &registry, self.clients.len())?;
            self.clients.push(Client { wire, asked: None, due: Instant::now() });
        }
        Ok(())
    }

    /// Follows a script on all connections, for so long or to its end, and until all that was asked is answered. Returns how many
    /// requests were.
    ///
    /// # Errors
    /// An answer is wrong, or missing for 10 seconds.
    pub(crate) fn follow(&mut self, drive: &mut Drive, script: &mut Script, span: Duration) -> io::Result<u64> {
        let mut now = Instant::now();
        let until = now + span;
        let (mut answered, mut waiting) = (0, 0);
        let mut begun = 0;
        while waiting > 0 || begun < self.clients.len() {
            // Thousands at once would have the proxy ask for more connections than the upstream's backlog holds.
            for client in self.clients.iter_mut().skip(begun).take(AT_ONCE) {
                waiting += usize::from(client.ask(script, now)?);
                begun += 1;
            }
            let wait = if begun < self.clients.len() { Duration::ZERO } else { Duration::from_millis(100) };
            drive.turn(Some(wait), |token, scratch| {
                let Some(client) = self.clients.get_mut(token) else { return Ok(()) };
                if client.is_answered(script, scratch)? {
                    answered += 1;
                    if now >= until || !client.ask(script, now)? {
                        waiting -= 1;
                    }
                }
                Ok(())
            })?;
            now = Instant::now();
            if now > until + PATIENCE {
                return Err(io::Error::other(format!("{waiting} answers are missing")));
            }
        }
        Ok(answered)
    }

    /// Each connection asks once, one after the other, so that no two wait in the proxy at a time.
    ///
    /// # Errors
    /// As with [`Load::follow`].
    pub(crate) fn each_once(&mut self, drive: &mut Drive, script: &mut Script, from: usize) -> io::Result<()> {
        for index in from..self.clients.len() {
            let (began, mut answered) = (Instant::now(), false);
            if let Some(client) = self.clients.get_mut(index) {
                client.ask(script, began)?;
            }
            while !answered {
                drive.turn(Some(Duration::from_millis(100)), |token, scratch| {
                    let Some(client) = self.clients.get_mut(token) else { return Ok(()) };
                    answered |= client.is_answered(script, scratch)?;
                    Ok(())
                })?;
                if began.elapsed() > PATIENCE {
                    return Err(io::Error::other("an answer is missing"));
                }
            }
        }
        Ok(())
    }

    /// Asks so many times a second, at even times, on whichever connection has been idle for longest, and returns how long after
    /// its time each was answered, in µs. A request whose time comes while all connections wait is late, and that counts.
    ///
    /// It never sleeps: a load that has to be woken would measure that.
    ///
    /// # Errors
    /// As with [`Load::follow`].
    pub(crate) fn keep_time(
        &mut self,
        drive: &mut Drive,
        script: &mut Script,
        rate: f64,
        span: Duration,
    ) -> io::Result<Vec<f64>> {
        let total = (rate * span.as_secs_f64()) as usize;
        let mut took = Vec::with_capacity(total);
        let mut idle: VecDeque<usize> = (0..self.clients.len()).collect();
        let (began, mut asked) = (Instant::now(), 0);
        while took.len() < total {
            let now = Instant::now();
            loop {
                let due = began + Duration::from_secs_f64(asked as f64 / rate);
                if asked == total || due > now {
                    break;
                }
                let Some(index) = idle.pop_front() else { break };
                if let Some(client) = self.clients.get_mut(index) {
                    client.ask(script, due)?;
                }
                asked += 1;
            }
            drive.turn(Some(Duration::ZERO), |token, scratch| {
                let Some(client) = self.clients.get_mut(token) else { return Ok(()) };
                if client.is_answered(script, scratch)? {
                    took.push(client.due.elapsed().as_secs_f64() * 1e6);
                    idle.push_back(token);
                }
                Ok(())
            })?;
            if now > began + span + PATIENCE {
                return Err(io::Error::other(format!("{} answers are missing", total - took.len())));
            }
        }
        Ok(took)
    }
}
