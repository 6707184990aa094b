//! What the answer to an auth subrequest means for the client's request.
#![forbid(unsafe_code)]

/// The answer to an auth subrequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status, 0 if there is none.
    pub status: u16,
    /// nginx made the status itself (502, 504 and the like), because the server sent no complete response.
    pub made_up: bool,
}

/// The meaning of an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request may go on.
    Allow,
    /// The request is denied, and the client gets this status.
    Deny(u16),
    /// The server has answered with a status that is neither a permission nor a denial to pass: the request never goes
    /// on.
    Unexpected(u16),
    /// No server has given a usable answer; `auth_subrequest_error` says what happens then.
    Failure(u16),
}

impl Answer {
    /// Whether the answer is a permission, a status of 200 to 299.
    pub fn permits(self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The verdict. `pass_status` lists the statuses that are passed to the client.
    pub fn verdict(self, pass_status: &[u16]) -> Verdict {
        match self.status {
            _ if self.permits() => Verdict::Allow,
            status if !self.made_up && pass_status.contains(&status) => Verdict::Deny(status),
            status @ 300..=499 => Verdict::Unexpected(status),
            status => Verdict::Failure(status),
        }
    }
}

/// The answer that decides, among all answers to one auth subrequest in the order of their arrival: the first one that is
/// no permission, otherwise the last one. What follows a refusal (an error page, a redirect to another location) cannot
/// permit. `None` if there is no answer.
pub fn decisive_answer(answers: impl IntoIterator<Item = Answer>) -> Option<Answer> {
    let mut last = None;
    for answer in answers {
        last = Some(answer);
        if !answer.permits() {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16) -> Verdict {
        Answer { status, made_up: false }.verdict(&[401, 403, 302, 503])
    }

    #[test]
    fn only_success_permits() {
        assert_eq!(verdict(200), Verdict::Allow);
        assert_eq!(verdict(299), Verdict::Allow);
        for status in (0..200).chain(300..1000) {
            assert_ne!(verdict(status), Verdict::Allow, "{status}");
        }
    }

    #[test]
    fn denials_are_passed_as_listed() {
        assert_eq!(verdict(401), Verdict::Deny(401));
        assert_eq!(verdict(302), Verdict::Deny(302));
        assert_eq!(verdict(503), Verdict::Deny(503));
        assert_eq!(verdict(404), Verdict::Unexpected(404));
        assert_eq!(verdict(301), Verdict::Unexpected(301));
        assert_eq!(verdict(500), Verdict::Failure(500));
        assert_eq!(verdict(101), Verdict::Failure(101));
        assert_eq!(verdict(0), Verdict::Failure(0));
    }

    #[test]
    fn a_status_made_by_nginx_is_no_denial() {
        assert_eq!(Answer { status: 503, made_up: true }.verdict(&[503]), Verdict::Failure(503));
    }

    #[test]
    fn the_first_refusal_decides() {
        let of = |statuses: &[u16]| {
            let answers = statuses.iter().map(|status| Answer { status: *status, made_up: false });
            decisive_answer(answers).map(|answer| answer.status)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[200]), Some(200));
        assert_eq!(of(&[401, 200]), Some(401));
        assert_eq!(of(&[502, 403, 200]), Some(502));
        assert_eq!(of(&[200, 204, 404, 200]), Some(404));
        assert_eq!(of(&[200, 204]), Some(204));
        assert_eq!(of(&[200, 0]), Some(0));
    }
}
