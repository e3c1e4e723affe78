//! How late answers are at a steady rate, and how long it takes until there are any.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::candidate::{HAPROXY, OURS, Running, Site};
use crate::contest::Contest;
use crate::cores::doing;
use crate::figures::Figures;
use crate::load::Load;
use crate::svg::{Chart, Shape};
use crate::visit::{CONNECTIONS, Path};

/// Requests a second: as many as any proxy here answers without being busy.
const RATE: f64 = 3000.0;

const DIRECT: &str = "no proxy";

/// What was measured of one proxy, in µs from the time that a request was due.
#[derive(Default)]
struct Late {
    half: Figures,
    hundredth: Figures,
    thousandth: Figures,
}

impl Contest<'_> {
    /// Requests at even times.
    pub(crate) fn latency(&mut self) -> io::Result<()> {
        let proxies = self.start(|_| {})?;
        let direct = self.visitor.upstream.address;
        let names: Vec<&str> =
            std::iter::once(DIRECT).chain(proxies.iter().map(|proxy| proxy.candidate.name)).collect();
        println!(
            "\n{RATE} requests a second on {CONNECTIONS} connections; µs from when each was due to its whole answer\n"
        );
        println!(
            "| path | proxy | p50 | p99 | p99.9 | p99 × {HAPROXY} | p50 added | p99 added |\n|---|---|---|---|---|---|---|---|"
        );
        let (mut labels, mut bars) = (Vec::new(), vec![Vec::new(); names.len()]);
        for path in self.plan.paths(&[Path::Passed, Path::SendAllowed]) {
            let mut all: Vec<Late> = names.iter().map(|_| Late::default()).collect();
            for _ in 0..self.plan.rounds {
                let (first, others) = all.split_at_mut(1);
                for late in first {
                    self.keep_time(direct, None, path, late)?;
                }
                for (proxy, late) in proxies.iter().zip(others) {
                    self.keep_time(proxy.address, Some(proxy), path, late).map_err(doing(proxy.candidate.name))?;
                }
            }
            let haproxy = names.iter().position(|name| *name == HAPROXY).and_then(|index| all.get(index));
            for (((index, name), late), bars) in names.iter().enumerate().zip(&all).zip(&mut bars) {
                let Late { half, hundredth, thousandth } = late;
                let ratio =
                    haproxy.map_or_else(|| "–".to_owned(), |it| hundredth.over(&it.hundredth).ratio(*name == HAPROXY));
                let added = all.first().filter(|_| index > 0).map_or_else(
                    || "– | –".to_owned(),
                    |direct| format!("{:.0} | {:.0}", half.less(&direct.half), hundredth.less(&direct.hundredth)),
                );
                println!(
                    "| {} | {name} | {half:.0} | {hundredth:.0} | {thousandth:.0} | {ratio} | {added} |",
                    path.name()
                );
                bars.push(Some(hundredth.median()));
            }
            labels.push(path.name().to_owned());
        }
        let Some(folder) = &self.plan.svg else { return Ok(()) };
        Chart {
            title: format!("99th percentile of latency at {RATE} requests a second: less is better"),
            unit: "µs".to_owned(),
            shape: Shape::Bars,
            labels,
            series: names.iter().map(|name| (*name).to_owned()).zip(bars).collect(),
        }
        .write(folder, "latency")
    }

    fn keep_time(&mut self, at: SocketAddr, proxy: Option<&Running>, path: Path, late: &mut Late) -> io::Result<()> {
        let visitor = &mut self.visitor;
        let mut load = Load::open(&visitor.drive, at, CONNECTIONS)?;
        let mut script = visitor.prepare(&mut load, proxy.map(|proxy| proxy.candidate), path)?;
        // Connections are new, and so is the pool to the upstream.
        load.keep_time(&mut visitor.drive, &mut script, RATE, Duration::from_millis(200))?;
        let mut took = load.keep_time(&mut visitor.drive, &mut script, RATE, visitor.span)?;
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        late.half.push(at(0.5));
        late.hundredth.push(at(0.99));
        late.thousandth.push(at(0.999));
        Ok(())
    }

    /// From the start of a process to what it is there for. The upstream has a thread of its own here.
    pub(crate) fn starts(&mut self) -> io::Result<()> {
        println!("\n| from spawning the process | ms |\n|---|---|");
        let upstream = self.visitor.upstream.address;
        let mut forwarded: Vec<(&str, Figures)> = Vec::new();
        let (mut ready, mut refused) = (Figures::default(), Figures::default());
        for _ in 0..self.plan.rounds {
            for candidate in &self.plan.candidates {
                let site = Site::before(upstream)?;
                let began = Instant::now();
                let proxy = match Running::spawn(candidate, &site, self.cores) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    proxy => proxy.map_err(doing(candidate.name))?,
                };
                let took =
                    until(proxy.address, b"GET /api/v1/messages HTTP/1.1\r\nhost: gateway.local\r\n\r\n", "200", began);
                let took = took.map_err(doing(candidate.name))?;
                match forwarded.iter_mut().find(|(name, _)| *name == candidate.name) {
                    Some((_, figures)) => figures.push(took),
                    None => {
                        let mut figures = Figures::default();
                        figures.push(took);
                        forwarded.push((candidate.name, figures));
                    }
                }
            }
            let mut site = Site::before(upstream)?;
            // TLS with the system's roots. Nobody is there, and nobody is asked: a body without a phone is the gateway's to answer.
            site.settings = vec![("UPSTREAM_URL", "https://127.0.0.1:9".to_owned())];
            let began = Instant::now();
            let _proxy = Running::spawn(OURS, &site, self.cores)?;
            ready.push(until(site.admin, b"GET /readyz HTTP/1.1\r\nhost: gateway.local\r\n\r\n", "200", began)?);
            let began = Instant::now();
            let site = Site {
                listen: crate::candidate::free_addresses()?.0,
                admin: crate::candidate::free_addresses()?.0,
                ..site
            };
            let _other = Running::spawn(OURS, &site, self.cores)?;
            let send = b"POST /api/v1/verify HTTP/1.1\r\nhost: gateway.local\r\nauthorization: Bearer sk_test_v1_0\r\n\
                         content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            refused.push(until(site.listen, send, "400", began)?);
        }
        for (name, took) in forwarded {
            println!("| {name}: first forwarded answer | {took:.1} |");
        }
        println!("| {}, https upstream, system roots: first 200 on /readyz | {ready:.1} |", OURS.name);
        println!("| {}, https upstream, system roots: first answer of its own | {refused:.1} |", OURS.name);
        Ok(())
    }
}

/// Asks until it is answered so, and returns how long that took, in ms.
fn until(address: SocketAddr, request: &[u8], status: &str, began: Instant) -> io::Result<f64> {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(request)?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.ends_with(status.as_bytes()))
    };
    while began.elapsed() < Duration::from_secs(10) {
        if ask().unwrap_or(false) {
            return Ok(began.elapsed().as_secs_f64() * 1e3);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Err(io::Error::other(format!("{address} never answered {status}")))
}
