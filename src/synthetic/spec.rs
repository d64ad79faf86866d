//! Every number of the miniature world, in one place.
//!
//! Lengths are pixels of the rendered picture. Time is counted in *sampled* frames: those that a model
//! sees at two frames per second. The clip holds further frames between them for people to watch.

/// What a question is like: quotas keep trivial removals from crowding out the others, and the number of
/// collisions from giving the kind away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The removal changes which of the options happen.
    Inferential,
    /// Observational; two collisions, the removed object takes part in one.
    InvolvedOfTwo,
    /// Observational; three collisions or more, the removed object takes part.
    InvolvedOfMore,
    /// Observational; one collision, the removed object takes no part.
    BystanderOfOne,
    /// Observational; two collisions, the removed object takes no part.
    BystanderOfTwo,
}

/// The numbers of the world. [`MINI`] is the one that is used; the type documents it.
#[derive(Debug, Clone, Copy)]
pub struct WorldSpec {
    /// Cells per side of the square floor. A cell is what one video token of the model covers.
    pub(crate) cells_per_side: usize,
    /// Side of a cell: patch 14 × merge 2.
    pub(crate) cell: f64,
    /// Objects start in the middle of a cell, off by at most this in x and in y.
    pub(crate) jitter: f64,
    /// Radius of the disc that every object is to the physics.
    pub(crate) radius: f64,
    /// Share of scenes with three objects in one row or column.
    pub(crate) line_share: f64,
    /// Share of scenes with two moving objects; the others have one.
    pub(crate) two_movers_share: f64,
    /// Least speed of a mover at the start, per sampled frame.
    pub(crate) min_speed: f64,
    /// Greatest speed of a mover at the start.
    pub(crate) max_speed: f64,
    /// Loss of speed by friction, per sampled frame.
    pub(crate) friction: f64,
    /// Coefficient of restitution: 1 is an elastic impact.
    pub(crate) restitution: f64,
    /// Steps of the simulation per sampled frame.
    pub(crate) substeps: usize,
    /// Sampled frames of a clip.
    pub(crate) sampled_frames: usize,
    /// Clip frames per sampled frame.
    pub frames_per_sample: usize,
    /// Sampled frames per second.
    pub(crate) samples_per_second: usize,
    /// A factual scene has at most this many collisions (and at least one).
    pub(crate) max_events: usize,
    /// A factual collision's normal speed is at least this: it can be seen.
    pub(crate) min_impact_speed: f64,
    /// Sine of the angle between relative velocity and contact normal is at most this: nearly head-on.
    pub(crate) max_impact_offset: f64,
    /// Factual objects that do not collide stay at least this far apart, surface to surface.
    pub(crate) min_gap: f64,
    /// Factual collisions are at least this many sampled frames apart.
    pub(crate) min_event_distance: f64,
    /// The last factual collision happens at this time at the latest: its effect is seen.
    pub(crate) latest_event: f64,
    /// Share of each topic among the questions.
    pub(crate) topic_shares: [(Topic, f64); 5],
    /// Share of *thinkers* among the worked answers to observational and to inferential questions, where
    /// [`super::WorkedStyle`] does not say otherwise; the others are *observers*.
    pub(crate) thinker_shares: [f64; 2],
    /// An object that moves less than this in one sampled frame is called still.
    pub(crate) still: f64,
    /// Counterfactual questions per clip in the worked answers.
    pub worked_questions: usize,
}

/// The miniature world.
pub const MINI: WorldSpec = WorldSpec {
    cells_per_side: 4,
    cell: 28.0,
    jitter: 2.0,
    radius: 10.5,
    line_share: 0.8,
    two_movers_share: 0.8,
    min_speed: 6.0,
    max_speed: 9.0,
    friction: 0.4,
    restitution: 0.95,
    substeps: 20,
    sampled_frames: 8,
    frames_per_sample: 2,
    samples_per_second: 2,
    max_events: 4,
    min_impact_speed: 3.5,
    max_impact_offset: 0.35,
    min_gap: 5.5,
    min_event_distance: 0.5,
    latest_event: 6.0,
    topic_shares: [
        (Topic::Inferential, 0.25),
        (Topic::InvolvedOfTwo, 0.25),
        (Topic::InvolvedOfMore, 0.20),
        (Topic::BystanderOfOne, 0.12),
        (Topic::BystanderOfTwo, 0.18),
    ],
    thinker_shares: [0.35, 0.8],
    still: 0.7,
    worked_questions: 2,
};

impl WorldSpec {
    /// Side of the square picture, in pixels.
    pub const fn side(&self) -> usize {
        self.cells_per_side * self.cell as usize
    }

    /// Share of inferential questions, where the maker of a world does not say otherwise.
    pub(crate) const fn inferential_share(&self) -> f64 {
        self.topic_shares[0].1
    }

    /// The topic of each scene's first question, spread evenly: at every place the topic that is most
    /// behind its share. With several questions a scene, the further ones are observational, so scenes
    /// with an inferential one are more frequent accordingly: `inferential` is their share among scenes.
    pub fn topics(&self, num_scenes: usize, inferential: f64) -> Vec<Topic> {
        let mut shares = self.topic_shares;
        let inferential = inferential.min(1.0);
        let others = (1.0 - inferential) / (1.0 - shares[0].1);
        for (topic, share) in &mut shares {
            *share = match topic {
                Topic::Inferential => inferential,
                _ => *share * others,
            };
        }
        let mut counts = [0.0; 5];
        (1..=num_scenes)
            .map(|place| {
                let behind = |index: usize| shares[index].1 * place as f64 - counts[index];
                let most = (0..shares.len())
                    .max_by(|left, right| behind(*left).total_cmp(&behind(*right)))
                    .unwrap_or(0);
                counts[most] += 1.0;
                shares[most].0
            })
            .collect()
    }

    /// Temporal grids: the model sees two sampled frames as one.
    pub(crate) const fn num_grids(&self) -> usize {
        self.sampled_frames / 2
    }

    /// Frames of a clip. With `7 m + 1` frames, eight evenly spaced ones are all exact.
    pub(crate) const fn clip_frames(&self) -> usize {
        (self.sampled_frames - 1) * self.frames_per_sample + 1
    }

    /// Frames per second of the clip as a fraction, such that sampling it at `samples_per_second`
    /// takes `sampled_frames` frames.
    pub(crate) const fn clip_rate(&self) -> (usize, usize) {
        (
            self.clip_frames() * self.samples_per_second,
            self.sampled_frames,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(topics: &[Topic], wanted: Topic) -> f64 {
        topics.iter().filter(|topic| **topic == wanted).count() as f64 / topics.len() as f64
    }

    #[test]
    fn topics_keep_their_shares_from_the_start() {
        let total: f64 = MINI.topic_shares.iter().map(|(_, share)| share).sum();
        assert!((total - 1.0).abs() < 1e-12);
        let topics = MINI.topics(1000, MINI.inferential_share());
        for (topic, wanted) in MINI.topic_shares {
            assert!((share(&topics, topic) - wanted).abs() < 0.002, "{topic:?}");
            assert!(
                (share(&topics[..100], topic) - wanted).abs() < 0.02,
                "{topic:?}"
            );
        }
        assert!((share(&MINI.topics(1000, 0.5), Topic::Inferential) - 0.5).abs() < 0.002);
        assert!(
            MINI.topics(10, 1.25)
                .iter()
                .all(|topic| *topic == Topic::Inferential)
        );
    }

    #[test]
    fn a_clip_sampled_at_the_paper_s_rate_gives_the_sampled_frames() {
        let (frames, seconds) = MINI.clip_rate();
        let duration = MINI.clip_frames() as f64 * seconds as f64 / frames as f64;
        let sampled = duration * MINI.samples_per_second as f64;
        assert!((sampled - MINI.sampled_frames as f64).abs() < 1e-9);
        assert_eq!(MINI.side(), 112);
    }
}
