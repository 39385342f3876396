-- +goose Up

-- One snapshot per cart. The checksum is xxHash64 of id and state. The version, by which replicas
-- tell whether they hold the same, is the XOR over the entries of the version vector of xxHash64 of id,
-- replica and sequence number, and of an erased cart xxHash64 of id and "erased". Both are stored as
-- the signed integer of the same bits. The first revision of a row is a random one, so that a row
-- which was purged and written anew is never taken for the one before. expires_at is in milliseconds of Unix time and NULL for a cart that never expires. Every
-- write of a cart moves it, so what is indexed is the hour: an index entry that moves with each
-- write would double its cost.
CREATE TABLE carts (
    id           BYTEA  NOT NULL PRIMARY KEY,
    revision     BIGINT NOT NULL,
    state        BYTEA  NOT NULL,
    checksum     BIGINT NOT NULL,
    version      BIGINT NOT NULL,
    expires_at   BIGINT,
    expires_hour BIGINT
);

CREATE INDEX carts_expiry ON carts (expires_hour) WHERE expires_hour IS NOT NULL;

-- Deltas that could not be joined into a snapshot, because it is damaged or lacks what they need.
-- The checksum is xxHash64 of id and delta, and names the delta among those of its cart. expires_at is
-- when the cart expires as far as the delta tells.
CREATE TABLE fragments (
    id         BYTEA  NOT NULL,
    checksum   BIGINT NOT NULL,
    delta      BYTEA  NOT NULL,
    expires_at BIGINT,
    PRIMARY KEY (id, checksum)
);

-- +goose Down

DROP TABLE fragments;
DROP INDEX carts_expiry;
DROP TABLE carts;
