"""Equal columns, different customers: horizontal federated learning on top of secure aggregation.

One family a file, each of pure functions on flat float64 vectors: :mod:`.optimisation`, :mod:`.personalisation`,
:mod:`.participation`, :mod:`.communication`, :mod:`.robustness`, :mod:`.privacy`, :mod:`.distillation`,
:mod:`.incentives`. :mod:`.models` makes vectors of linear models and networks of scikit-learn, :mod:`.partitioning`
deals rows out to clients, :mod:`.world` says how fast and how honest they are, and :func:`vfl.federate` trains.
"""
