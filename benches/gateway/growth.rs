//! How costs grow: with connections, bodies, workers and limits.

use std::io;

use crate::candidate::{OURS, Running, Site};
use crate::contest::{Contest, Row, print, print_head};
use crate::cores::doing;
use crate::figures::Figures;
use crate::load::Load;
use crate::script::{Ask, Expect, Script};
use crate::svg::{Chart, Shape};
use crate::visit::Path;

const BODIES: [usize; 5] = [100, 1024, 4096, 16_384, 32_768];
const CONNECTIONS: [usize; 4] = [1, 64, 512, 4096];

/// Limits that a send meets, from the first to as many as are measured. None of them refuses a first send.
const LIMITS: [(&str, &str, usize, &str); 8] = [
    ("phone-10m", "phone", 5, "10m"),
    ("account-1m", "account", 100, "1m"),
    ("phone-day", "phone", 20, "24h"),
    ("account-hour", "account", 1000, "1h"),
    ("phone-hour", "phone", 10, "1h"),
    ("account-day", "account", 10_000, "24h"),
    ("phone-week", "phone", 50, "7d"),
    ("account-week", "account", 50_000, "7d"),
];

impl Contest<'_> {
    /// Sends with bodies of some lengths.
    pub(crate) fn bodies(&mut self) -> io::Result<()> {
        let proxies = self.start(|site| site.body = BODIES.into_iter().max().unwrap_or_default())?;
        let mut all = Vec::new();
        print_head("body, bytes");
        for body in BODIES {
            self.visitor.body = body;
            let path = self.plan.only.unwrap_or(Path::SendAllowed);
            let rows = self.rounds(&proxies, |visitor, proxy| visitor.visit(proxy, path))?;
            print(&body.to_string(), &rows);
            all.push((body.to_string(), rows));
        }
        self.draw(Shape::Lines, "bodies", "bytes of a send's body", &all)
    }

    /// Proxies with one worker, and with two.
    pub(crate) fn workers(&mut self) -> io::Result<()> {
        let mut all = Vec::new();
        for workers in [1, 2] {
            if self.cores.are_too_few(workers) {
                println!(
                    "\n{workers} workers on this machine share a core with the load: requests/s says little, CPU per request stands."
                );
            }
            let proxies = self.start(|site| site.workers = workers)?;
            print_head("path, workers");
            for path in self.plan.paths(&[Path::Passed, Path::SendAllowed, Path::SendRefused]) {
                let label = format!("{}, {workers}", path.name());
                let rows = self.rounds(&proxies, |visitor, proxy| visitor.visit(proxy, path))?;
                print(&label, &rows);
                all.push((label, rows));
            }
        }
        self.draw(Shape::Bars, "workers", "workers", &all)
    }

    /// What idle connections take in memory, and what as many busy ones cost.
    pub(crate) fn connections(&mut self) -> io::Result<()> {
        let counts = CONNECTIONS.into_iter().filter(|count| !self.plan.quick || *count <= 512);
        let (mut memories, mut all) = (Vec::new(), Vec::new());
        print_head("connections");
        for count in counts {
            // New processes, since memory that connections had is seldom given back.
            let proxies = self.start(|site| site.connections = count)?;
            let memory: io::Result<Vec<f64>> = proxies.iter().map(|proxy| self.idle(proxy, count)).collect();
            memories.push((count, memory?));
            let rows = self.rounds(&proxies, |visitor, proxy| {
                let load = Load::open(&visitor.drive, proxy.address, count).map_err(doing("connecting"))?;
                let visit = visitor.visit_with(load, proxy, Path::SendAllowed);
                // Else each proxy's idle ones would be open at once, and few may open so many files.
                visitor.drive.close_upstream();
                visit
            })?;
            print(&count.to_string(), &rows);
            all.push((count.to_string(), rows));
        }
        let names: Vec<&str> = all.last().iter().flat_map(|(_, rows)| rows).map(|row| row.name).collect();
        println!("\n| idle connections | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
        // Less than the pages that a process takes at a time says nothing.
        for (count, memory) in memories.iter().filter(|(count, _)| *count >= 64) {
            let cells: Vec<String> = memory.iter().map(|bytes| format!("{:.1} KB each", bytes / 1000.0)).collect();
            println!("| {count} | {} |", cells.join(" | "));
        }
        self.draw(Shape::Lines, "connections", "client connections", &all)?;
        let Some(folder) = &self.plan.svg else { return Ok(()) };
        let told: Vec<_> = memories.iter().filter(|(count, _)| *count >= 64).collect();
        let line = |(index, name): (usize, &&str)| {
            ((*name).to_owned(), told.iter().map(|(_, bytes)| bytes.get(index).map(|bytes| bytes / 1000.0)).collect())
        };
        Chart {
            title: "Memory per idle connection that has sent one code: less is better".to_owned(),
            unit: "KB".to_owned(),
            shape: Shape::Bars,
            labels: told.iter().map(|(count, _)| format!("{count} connections")).collect(),
            series: names.iter().enumerate().map(line).collect(),
        }
        .write(folder, "connections-memory")
    }

    /// How many bytes each of so many connections takes when it has served one send.
    fn idle(&mut self, proxy: &Running, count: usize) -> io::Result<f64> {
        let visitor = &mut self.visitor;
        let send = Ask::Send { body: 0 };
        let mut load = Load::open(&visitor.drive, proxy.address, 1)?;
        // What comes with the first requests is not theirs.
        let phones = visitor.take(1000);
        load.follow(&mut visitor.drive, &mut Script::once_each(send, Expect::Upstream, phones), self.plan.visit)?;
        let before = proxy.memory()?;
        load.widen(&visitor.drive, proxy.address, count)?;
        let phones = visitor.take(count as u64);
        load.each_once(&mut visitor.drive, &mut Script::once_each(send, Expect::Upstream, phones), 1)?;
        Ok((proxy.memory()? as f64 - before as f64) / count as f64)
    }

    /// The gateway without and with its state on disk.
    pub(crate) fn state(&mut self) -> io::Result<()> {
        let mut proxies = Vec::new();
        for is_kept in [false, true] {
            let mut site = Site::before(self.visitor.upstream.address)?;
            if is_kept {
                site.settings.push(("STATE_DIR", site.scratch.join("state").display().to_string()));
            }
            proxies.push(Running::start(OURS, &site, self.cores)?);
        }
        println!("\n| path | state | CPU µs per request | × without | requests/s | busy |\n|---|---|---|---|---|---|");
        for path in self.plan.paths(&[Path::SendAllowed, Path::SendRefused, Path::ResendAllowed]) {
            let rows = self.rounds(&proxies, |visitor, proxy| visitor.visit(proxy, path))?;
            let Some(without) = rows.first() else { return Ok(()) };
            for (index, Row { cpu, rate, busy, .. }) in rows.iter().enumerate() {
                let (kept, ratio) = (["none", "on disk"][index % 2], cpu.over(&without.cpu).ratio(index == 0));
                println!("| {} | {kept} | {cpu:.1} | {ratio} | {rate:.0} | {:.0} % |", path.name(), busy.median());
            }
        }
        Ok(())
    }

    /// The gateway with one limit, with two, and so on.
    pub(crate) fn limits(&mut self) -> io::Result<()> {
        let mut proxies = Vec::new();
        for count in 1..=LIMITS.len() {
            let mut site = Site::before(self.visitor.upstream.address)?;
            let limits = LIMITS.iter().take(count).map(|(name, per, max, window)| {
                format!("[[limits]]\nname = \"{name}\"\nper = \"{per}\"\nmax = {max}\nwindow = \"{window}\"\n")
            });
            site.limits = Some(limits.collect());
            proxies.push(Running::start(OURS, &site, self.cores)?);
        }
        let path = self.plan.only.unwrap_or(Path::SendAllowed);
        let rows = self.rounds(&proxies, |visitor, proxy| visitor.visit(proxy, path))?;
        let Some(first) = rows.first() else { return Ok(()) };
        println!("\n| limits | CPU µs per {} | × one limit | requests/s | busy |\n|---|---|---|---|---|", path.name());
        for (index, Row { cpu, rate, busy, .. }) in rows.iter().enumerate() {
            let ratio = cpu.over(&first.cpu).ratio(index == 0);
            println!("| {} | {cpu:.1} | {ratio} | {rate:.0} | {:.0} % |", index + 1, busy.median());
        }
        let Some(folder) = &self.plan.svg else { return Ok(()) };
        let medians = |of: fn(&Row) -> &Figures| rows.iter().map(|row| Some(of(row).median())).collect();
        Chart {
            title: "CPU time per allowed send, over limits that it meets".to_owned(),
            unit: "µs".to_owned(),
            shape: Shape::Lines,
            labels: (1..=rows.len()).map(|count| count.to_string()).collect(),
            series: vec![(OURS.name.to_owned(), medians(|row| &row.cpu))],
        }
        .write(folder, "limits-cpu")
    }
}
