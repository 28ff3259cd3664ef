"""Secure aggregation: an aggregator learns the sum of clients' vectors and no vector (box 7).

    client u                                            aggregator
    0. two key pairs for this round      -- Advertise -->       signed by u's pinned identity
    1. check the signatures              <-- Roster --
       seed b_u; shares of b_u and of
       the masking key, sealed           -- Shares -->          passed on, unreadable
    2. y_u = x_u + PRG(b_u)              <-- Bundle --
         + sum_{v > u} PRG(s_uv)
         - sum_{v < u} PRG(s_uv) mod 2^b -- MaskedInput -->     packed, with a signature on who shared
    3. check these signatures            <-- Survivors --       whose y has come
       sign the set of survivors         -- Confirmation -->
    4. check a quorum of signatures      <-- Agreement --
       b_u, shares of b_v of survivors,
       of the masking keys of others     -- Reveal -->          sum of x_u = sum of y_u - the masks
                                         <-- Outcome --

s_uv comes from X25519 over the masking keys by HKDF, bound to the session, the round, the model, the policy and all who
shared. One client's own mask and pair masks are never both known.

Adversary: an aggregator that does what it likes and up to `colluders` clients. It learns the sum over one set of at
least `minimum` survivors, whom it chooses, or nothing; the clients learn what it tells them of the sum. It can spoil a
round or lie about the sum. docs/protocols/secagg.md has the argument.

**Where this differs from the paper.** Key pairs live for one round. A survivor reveals its own seed itself; shares are
needed of those that are lost. The vector travels with a signature on the view under which it was masked, which its
neighbours check before they reveal anything: the confirmations of a quorum say nothing about the view of a client that
is not among them. Secrets carry commitments, so that wrong shares are found and corrected. The policy is the clients',
not the aggregator's.

Sources: Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal and Seth, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", CCS 2017 (eprint 2017/281), figure 4 with the lines for active
adversaries; Bell et al., CCS 2020 (eprint 2020/704), for the graph; Pasquini, Francati and Ateniese, "Eluding Secure
Aggregation in Federated Learning via Model Inconsistency", CCS 2022 (arXiv 2111.07380), for the hash of the model.
"""
