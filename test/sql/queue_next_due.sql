-- How long a worker that got nothing may sleep: a queue that its limits keep from giving anything
-- does not say that there is something to claim now.
SELECT jobstate.install('queue');

-- nothing waits, nothing is known of; something does
SELECT jobstate.queue_define('test', '{"max_running": 2, "max_running_per_key": 1}');
SELECT jobstate.next_due('test');
SELECT count(*) FROM jobstate.enqueue_many('test', '{a1,a2,n1,n2}', array_fill('{}'::jsonb, ARRAY[4]), limit_keys => '{a,a,NULL,NULL}');
SELECT jobstate.next_due('test');

-- one job of the key runs, and others may
CREATE TEMP TABLE got AS SELECT * FROM jobstate.claim('test', 'worker');
SELECT kind, jobstate.next_due('test') FROM got;
-- as many run as may: ask again in a while, though jobs are available
INSERT INTO got SELECT * FROM jobstate.claim('test', 'worker', 10);
SELECT count(*) FROM got;
SELECT jobstate.next_due('test');
-- what is due would not be claimed either
SELECT duplicate FROM jobstate.enqueue('test', 'later', run_at => clock_timestamp() + interval '1 h', limit_key => 'b');
SELECT jobstate.next_due('test');
BEGIN;
UPDATE jobstate.job SET run_at = clock_timestamp() WHERE kind = 'later';
SELECT jobstate.next_due('test');
ROLLBACK;

-- an end makes room
SELECT jobstate.complete(id, token) FROM got WHERE kind = 'n1';
SELECT jobstate.next_due('test');
SELECT kind FROM jobstate.claim('test', 'worker', 10);
SELECT jobstate.complete(id, token) FROM jobstate.job WHERE kind = 'n2';

-- what is left is of the key of which one runs; another key's job is due before the second is over
SELECT j.kind, jobstate.next_due('test') FROM jobstate.job j WHERE j.state_id = 1;
BEGIN;
UPDATE jobstate.job SET run_at = clock_timestamp() + interval '0.9 s' WHERE kind = 'later';
SELECT jobstate.next_due('test') <= interval '0.9 s' AS by_then;
ROLLBACK;
SELECT jobstate.complete(id, token) FROM got WHERE kind = 'a1';
SELECT jobstate.next_due('test');
SELECT jobstate.cancel(id) FROM jobstate.job WHERE kind = 'a2';
-- nothing but what is due later, while the queue is full and while it is not
SELECT jobstate.next_due('test') > interval '59 min' AS in_an_hour;
SELECT jobstate.queue_define('test', '{"max_running": 1}');
SELECT duplicate FROM jobstate.enqueue('test', 'only');
SELECT kind FROM jobstate.claim('test', 'worker');
SELECT jobstate.next_due('test') > interval '59 min' AS in_an_hour;
DELETE FROM jobstate.job WHERE kind = 'later';
SELECT jobstate.next_due('test');

-- a limit that is taken away is none
SELECT duplicate FROM jobstate.enqueue('test', 'more');
SELECT jobstate.next_due('test');
SELECT jobstate.queue_define('test', '{"max_running": null, "max_running_per_key": null}');
SELECT jobstate.next_due('test');
SELECT jobstate.pause('test'), jobstate.next_due('test');

DELETE FROM jobstate.job WHERE queue = 'test';
DELETE FROM jobstate.queue WHERE queue = 'test';
