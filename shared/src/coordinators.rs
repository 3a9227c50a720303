//! The coordinators of a cluster as workers and people's tools know them: a list, and who of them was said to lead. Anyone on
//! the list says who leads, so a list that names one living coordinator is enough.

/// The header of every answer of a coordinator that says, as `host:port`, who leads.
pub const LEADER_HEADER: &str = "cappa-leader";

/// Where the leader is looked for. Pure: who uses it connects and waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinators {
    urls: Vec<String>,
    current: usize,
    /// Was said to lead.
    leader: Option<String>,
    /// Tries since somebody who leads was reached.
    tries: usize,
}

impl Coordinators {
    /// Those of a list such as `a:7070,b:7070`; the scheme may be left out.
    pub fn parse(list: &str) -> Self {
        let named = list.split(',').map(str::trim).filter(|named| !named.is_empty());
        let mut urls: Vec<String> = named.map(|named| url("http", named)).collect();
        if urls.is_empty() {
            urls.push(list.to_owned());
        }
        Self { urls, current: 0, leader: None, tries: 0 }
    }

    /// All of the list, as URLs.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Where to try now.
    pub fn current(&self) -> &str {
        self.leader.as_deref().unwrap_or(&self.urls[self.current])
    }

    /// The one tried is away, or knows nobody who leads: another is next. True when everybody was tried in vain, so that a
    /// pause is due.
    pub fn advance(&mut self) -> bool {
        if self.leader.take().is_none() {
            self.current = (self.current + 1) % self.urls.len();
        }
        self.count()
    }

    /// The one tried says that `leader` leads, which is next. True when a pause is due all the same: who says so may be behind.
    pub fn follow(&mut self, leader: &str) -> bool {
        let scheme = self.current().split("://").next().unwrap_or("http").to_owned();
        self.leader = Some(url(&scheme, leader));
        self.count()
    }

    /// The one tried leads.
    pub fn reached(&mut self) {
        self.tries = 0;
    }

    fn count(&mut self) -> bool {
        self.tries += 1;
        let is_due = self.tries >= self.urls.len();
        if is_due {
            self.tries = 0;
        }
        is_due
    }
}

fn url(scheme: &str, named: &str) -> String {
    if named.contains("://") { named.to_owned() } else { format!("{scheme}://{named}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_tried_in_a_circle_with_a_pause_a_round() {
        let mut known = Coordinators::parse("a:1, http://b:1,https://c:1");
        assert_eq!(known.urls(), ["http://a:1", "http://b:1", "https://c:1"]);
        let mut tried = Vec::new();
        for _ in 0..6 {
            tried.push(known.current().to_owned());
            tried.extend(known.advance().then(|| "pause".to_owned()));
        }
        let round = ["http://a:1", "http://b:1", "https://c:1", "pause"];
        assert_eq!(tried, [round, round].concat());
    }

    #[test]
    fn the_only_one_is_tried_again_after_a_pause() {
        let mut known = Coordinators::parse("a:1");
        assert!(known.advance());
        assert_eq!(known.current(), "http://a:1");
    }

    #[test]
    fn who_is_said_to_lead_is_next_and_given_up_when_away() {
        let mut known = Coordinators::parse("https://a:1,https://b:1");
        assert!(!known.follow("c:1"));
        assert_eq!(known.current(), "https://c:1");
        known.reached();
        assert!(!known.advance());
        assert_eq!(known.current(), "https://a:1");
    }

    #[test]
    fn two_that_send_to_each_other_are_not_asked_without_a_pause() {
        let mut known = Coordinators::parse("a:1,b:1");
        let pauses = (0..10).filter(|n| known.follow(if n % 2 == 0 { "b:1" } else { "a:1" })).count();
        assert!(pauses >= 5, "{pauses}");
    }
}
