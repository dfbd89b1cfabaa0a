-- Five deployments of one table, a schema each, and a role for the drivers that owns them. What the drivers change is
-- real: the table of a deployment has the constraint, or it has not.
CREATE EXTENSION jobstate;
SELECT jobstate.install('apply');

CREATE ROLE demo_driver;
SELECT jobstate.apply_grant('demo_driver');

SELECT format('CREATE SCHEMA %1$I AUTHORIZATION demo_driver;'
              'CREATE TABLE %1$I.orders (id integer PRIMARY KEY, amount integer NOT NULL);'
              'ALTER TABLE %1$I.orders OWNER TO demo_driver;'
              'INSERT INTO %1$I.orders SELECT n, n FROM generate_series(1, 1000) n;', deployment)
  FROM unnest(ARRAY['us-east', 'us-west', 'eu-west', 'asia', 'africa']) deployment \gexec
UPDATE "eu-west".orders SET amount = -7 WHERE id = 7;

-- What was seen of each apply, for the check.
CREATE TABLE seen (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    apply_id bigint NOT NULL,
    state    text NOT NULL
);
