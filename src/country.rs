//! Countries, and which of them a phone is in.
//!
//! Country codes are ISO 3166-1 alpha-2, and `XK` for Kosovo, which has a calling code and no ISO code yet. Where a phone is
//! follows from its first digits alone: the table is `country/plan.rs`, flattened while the program is compiled, so that
//! finding a country is a binary search and allocates nothing. It says where a number was given out, not where its phone is,
//! nor whether it exists.

mod plan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use crate::phone::Phone;
use plan::{PLAN, WIDTH};

/// Every code, sorted, each followed by a space.
const CODES: &str = "\
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK \
CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS \
GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV \
LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM \
PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR \
TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW ";

/// A country, or a territory that ISO 3166 counts as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country(u8);

/// The text is no country's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCountry;

impl Country {
    /// How many there are.
    pub const COUNT: usize = CODES.len() / 3;

    /// Where this phone's number was given out; `None` where no country gave it out.
    pub fn of(phone: Phone) -> Option<Self> {
        let prefix = leading(phone.digits());
        let place = TABLE.starts.partition_point(|start| *start <= prefix).checked_sub(1)?;
        TABLE.countries.get(place).copied().filter(|country| *country != NOBODY).map(Country)
    }

    /// All of them, in their order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).filter_map(|index| u8::try_from(index).ok().map(Self))
    }

    /// Its place among all countries, below [`COUNT`](Self::COUNT).
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Its ISO 3166 code, such as `US`.
    pub fn code(self) -> &'static str {
        let start = self.index() * 3;
        CODES.get(start..start + 2).unwrap_or_default()
    }

    #[allow(clippy::indexing_slicing, reason = "both places are below the lengths that are asked for before")]
    const fn named(code: &[u8]) -> Option<Self> {
        let codes = CODES.as_bytes();
        let mut index = 0;
        while index < Self::COUNT {
            if code.len() == 2 && code[0] == codes[index * 3] && code[1] == codes[index * 3 + 1] {
                return Some(Self(index as u8));
            }
            index += 1;
        }
        None
    }
}

impl FromStr for Country {
    type Err = NoCountry;

    fn from_str(code: &str) -> Result<Self, NoCountry> {
        Self::named(code.as_bytes()).ok_or(NoCountry)
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The first [`WIDTH`] digits of a number, filled up with zeros at their end.
fn leading(digits: u64) -> u32 {
    let many = digits.checked_ilog10().unwrap_or(0) + 1;
    let leading = match many.checked_sub(WIDTH) {
        Some(more) => digits / 10_u64.pow(more),
        None => digits * 10_u64.pow(WIDTH - many),
    };
    leading as u32
}

/// Whose it is from here to the next start: a country's index.
struct Table {
    starts: [u32; STRETCHES],
    countries: [u8; STRETCHES],
}

const NOBODY: u8 = u8::MAX;

/// How many prefixes the plan has.
#[allow(clippy::indexing_slicing, reason = "it runs in the compiler, and a fault there is an error of compilation")]
const PREFIXES: usize = {
    let (mut many, mut country) = (0, 0);
    while country < PLAN.len() {
        many += PLAN[country].1.len();
        country += 1;
    }
    many
};

/// Each prefix has a start and an end; what is over lies behind every number.
const STRETCHES: usize = 2 * PREFIXES + 1;

static TABLE: Table = flatten();

/// One prefix as a stretch of numbers of [`WIDTH`] digits.
#[derive(Clone, Copy)]
struct Stretch {
    start: u32,
    end: u32,
    country: u8,
}

/// The stretches of the plan, by where they start; of those that start together, the longest first.
#[allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "it runs in the compiler, and a fault there is an error of compilation"
)]
const fn sorted() -> [Stretch; PREFIXES] {
    let mut all = [Stretch { start: 0, end: 0, country: NOBODY }; PREFIXES];
    let (mut many, mut row) = (0, 0);
    while row < PLAN.len() {
        let (code, prefixes) = PLAN[row];
        let Some(Country(country)) = Country::named(code.as_bytes()) else { panic!("the plan names no country") };
        let mut place = 0;
        while place < prefixes.len() {
            let prefix = prefixes[place];
            let span = 10_u32.pow(WIDTH - (prefix.ilog10() + 1));
            let new = Stretch { start: prefix * span, end: (prefix + 1) * span, country };
            let mut at = many;
            while at > 0
                && (all[at - 1].start > new.start || all[at - 1].start == new.start && all[at - 1].end < new.end)
            {
                all[at] = all[at - 1];
                at -= 1;
            }
            all[at] = new;
            many += 1;
            place += 1;
        }
        row += 1;
    }
    all
}

/// The plan as one row of starts, in which nothing lies within anything else.
#[allow(clippy::indexing_slicing, reason = "it runs in the compiler, and a fault there is an error of compilation")]
const fn flatten() -> Table {
    let all = sorted();
    let mut table = Table { starts: [u32::MAX; STRETCHES], countries: [NOBODY; STRETCHES] };
    // Those that have begun and not ended, the outermost first.
    let (mut open, mut depth) = ([all[0]; WIDTH as usize], 0);
    let (mut many, mut next) = (0, 0);
    while next < PREFIXES || depth > 0 {
        let ends_first = depth > 0 && (next == PREFIXES || open[depth - 1].end <= all[next].start);
        let (start, country) = if ends_first {
            depth -= 1;
            (open[depth].end, if depth > 0 { open[depth - 1].country } else { NOBODY })
        } else {
            open[depth] = all[next];
            depth += 1;
            next += 1;
            (open[depth - 1].start, open[depth - 1].country)
        };
        if many > 0 && table.starts[many - 1] == start {
            many -= 1;
        }
        table.starts[many] = start;
        table.countries[many] = country;
        many += 1;
    }
    table
}
