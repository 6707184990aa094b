//! What variables such as `$upstream_connection_idle_time` write for the attempts of a request.
#![forbid(unsafe_code)]

use keepalive::base::times::{write, write_time, LoggedAttempt, MAX_TIME};

use crate::input::Input;

/// Each line is an attempt: a time in milliseconds, or nothing between groups of servers.
pub fn target(data: &[u8]) {
    let attempts: Vec<LoggedAttempt<usize>> = Input(data)
        .lines()
        .into_iter()
        .map(|line| LoggedAttempt { peer: !line.is_empty(), what: Input(line).number() })
        .collect();
    let mut text = String::new();
    write(&mut text, attempts.iter().copied(), write_time).expect("strings can be written");
    assert_eq!(text, expected(&attempts));
    for time in text.split([',', ':', ' ']).filter(|time| !time.is_empty()) {
        assert!(time.len() <= MAX_TIME, "{time}");
        let (seconds, thousandths) = time.split_once('.').expect("a decimal number");
        assert!(thousandths.len() == 3 && seconds.parse::<usize>().is_ok(), "{time}");
    }
}

/// The loop of `ngx_http_upstream_response_time_variable()`.
fn expected(attempts: &[LoggedAttempt<usize>]) -> String {
    let (mut text, mut at) = (String::new(), 0);
    while at < attempts.len() {
        let time = attempts[at].what;
        text += &format!("{}.{}{}{}", time / 1000, time / 100 % 10, time / 10 % 10, time % 10);
        at += 1;
        if at == attempts.len() {
            break;
        }
        if attempts[at].peer {
            text += ", ";
        } else {
            text += " : ";
            at += 1;
        }
    }
    text
}
