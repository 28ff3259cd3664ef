"""Models as functions of a flat vector; adapters for scikit-learn's linear models and networks.

Those of PyTorch are in :mod:`.pytorch`.

    model = adapted(MLPClassifier(hidden_layer_sizes=(32,)), features=64, classes=range(10))
    vector = model.initial(seed=0)
    estimator = model.estimator(vector)         # a fitted estimator of scikit-learn, predicts the same

A network is a list of weight matrices and intercepts; a linear model is one without hidden layers. Two classes have two
outputs here and one in scikit-learn: the difference of the two.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vfl.errors import ConfigError, InvalidData
from vfl.horizontal.vectors import Matrix, Vector, flatten, generator, unflatten

__all__ = ["Model", "Network", "accuracy", "adapted", "labels_of", "places"]


class Model(Protocol):
    """What training asks of a model."""

    @property
    def size(self) -> int:
        """Numbers of the vector."""
        ...

    def initial(self, seed: int) -> Vector:
        """Return a vector to start from."""
        ...

    def loss(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> float:
        """Return the mean loss."""
        ...

    def gradient(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> Vector:
        """Return the gradient of the mean loss."""
        ...

    def scores(self, vector: Vector, X: Matrix) -> Matrix:
        """Return a row of scores (logits, or predictions) for each row."""
        ...

    def accuracy(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> float:
        """Return the part of rows classified right, or R^2 of a regression."""
        ...


def places(classes: NDArray[Any], y: NDArray[Any]) -> NDArray[np.int64]:
    """Return the place of each label among sorted classes.

    Raises
    ------
    InvalidData
        If a label is none of them.
    """
    index = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    if not (classes[index] == y).all():
        raise InvalidData("a label is none of the model's classes; all clients name all classes")
    return index


def labels_of(classes: NDArray[Any] | None, scores: Matrix) -> NDArray[Any]:
    """Return the labels, or the numbers of a regression, of scores, shape (rows,)."""
    return scores[:, 0] if classes is None else classes[scores.argmax(axis=1)]


def accuracy(classes: NDArray[Any] | None, predicted: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the part of labels that are right, or R^2 of a regression."""
    if classes is not None:
        return float((predicted == y).mean())
    return 1.0 - float(((predicted - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())


_ACTIVATIONS: dict[str, tuple[Callable[[Matrix], Matrix], Callable[[Matrix], Matrix]]] = {
    # the function, and its derivative in terms of its value
    "relu": (lambda z: np.maximum(z, 0.0), lambda a: (a > 0).astype(np.float64)),
    "tanh": (np.tanh, lambda a: 1.0 - a * a),
    "logistic": (lambda z: 0.5 * (1.0 + np.tanh(0.5 * z)), lambda a: a * (1.0 - a)),
    "identity": (lambda z: z, np.ones_like),
}


@dataclass(frozen=True, eq=False)
class Network:
    """A feed-forward network with softmax and log-loss, or one linear output and half the squared error.

    Parameters
    ----------
    layers : tuple of int
        Features, hidden layers, outputs.
    classes : ndarray or None
        Sorted labels, as many as outputs; None is a regression.
    activation : str
        "relu", "tanh", "logistic" or "identity".
    penalty : float
        Half of it times the squared weights, without intercepts, is added to the loss.
    template : object, optional
        The estimator of scikit-learn that :meth:`estimator` copies.
    """

    layers: tuple[int, ...]
    classes: NDArray[Any] | None
    activation: str = "relu"
    penalty: float = 0.0
    template: Any = None

    def __post_init__(self) -> None:
        if len(self.layers) < 2 or min(self.layers) < 1 or self.activation not in _ACTIVATIONS:
            raise InvalidData(
                f"layers {self.layers} with activation {self.activation!r} are no network; activations are "
                f"{', '.join(_ACTIVATIONS)}"
            )
        outputs = 1 if self.classes is None else len(self.classes)
        if self.layers[-1] != outputs or (self.classes is not None and outputs < 2):
            raise InvalidData(f"the last layer has {self.layers[-1]} outputs, the labels take {outputs}")

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the arrays: weights and intercepts, layer by layer."""
        pairs = zip(self.layers[:-1], self.layers[1:], strict=True)
        return [shape for rows, columns in pairs for shape in ((rows, columns), (columns,))]

    @cached_property
    def size(self) -> int:
        """Numbers of the vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def initial(self, seed: int) -> Vector:
        """Return Glorot's uniform weights and no intercepts; zeros for a linear model, whose loss is convex."""
        if len(self.layers) == 2:
            return np.zeros(self.size)
        rng = generator(seed, 1)
        arrays = []
        for shape in self.shapes:
            bound = np.sqrt(6.0 / sum(shape)) if len(shape) == 2 else 0.0
            arrays.append(rng.uniform(-bound, bound, shape))
        return flatten(arrays)

    def _forward(self, arrays: Sequence[Matrix], X: Matrix) -> list[Matrix]:
        act = _ACTIVATIONS[self.activation][0]
        values = [X]
        for i in range(0, len(arrays), 2):
            z = values[-1] @ arrays[i] + arrays[i + 1]
            values.append(act(z) if i + 2 < len(arrays) else z)
        return values

    def scores(self, vector: Vector, X: Matrix) -> Matrix:
        """Return logits, shape (rows, classes), or predictions, shape (rows, 1)."""
        return self._forward(unflatten(vector, self.shapes), X)[-1]

    def _errors(self, scores: Matrix, y: NDArray[Any]) -> Matrix:
        """Return the derivative of the mean loss by the scores."""
        count = len(scores)
        if self.classes is None:
            return np.asarray((scores - np.asarray(y, dtype=np.float64)[:, None]) / count)
        errors: Matrix = np.exp(scores - scores.max(axis=1, keepdims=True))
        errors /= errors.sum(axis=1, keepdims=True)
        errors[np.arange(count), places(self.classes, y)] -= 1.0
        errors /= count
        return errors

    def loss(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> float:
        """Return the mean loss with the penalty."""
        arrays = unflatten(vector, self.shapes)
        scores = self._forward(arrays, X)[-1]
        penalty = self.penalty / 2 * sum(float((weights**2).sum()) for weights in arrays[::2])
        if self.classes is None:
            return float(((scores[:, 0] - y) ** 2).mean() / 2) + penalty
        shifted = scores - scores.max(axis=1, keepdims=True)
        right = shifted[np.arange(len(scores)), places(self.classes, y)]
        return float((np.log(np.exp(shifted).sum(axis=1)) - right).mean()) + penalty

    def gradient(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> Vector:
        """Return the gradient of :meth:`loss` by back-propagation."""
        arrays = unflatten(vector, self.shapes)
        values = self._forward(arrays, X)
        return self._back(arrays, values, self._errors(values[-1], y), self.penalty)

    def backward(self, arrays: Sequence[Matrix], X: Matrix, errors: Matrix) -> Vector:
        """Return the gradient of a loss whose derivative by the scores is `errors`, shape (rows, outputs)."""
        return self._back(arrays, self._forward(arrays, X), errors, 0.0)

    def by_rows(self, arrays: Sequence[Matrix], X: Matrix, errors: Matrix) -> Matrix:
        """Return the derivative by the rows X, shape (rows, features), of such a loss."""
        values, slope = self._forward(arrays, X), _ACTIVATIONS[self.activation][1]
        for i in range(len(arrays) - 2, 1, -2):
            errors = (errors @ arrays[i].T) * slope(values[i // 2])
        return np.asarray(errors @ arrays[0].T)

    def _back(self, arrays: Sequence[Matrix], values: list[Matrix], errors: Matrix, penalty: float) -> Vector:
        slope = _ACTIVATIONS[self.activation][1]
        parts: list[Matrix] = []
        for i in range(len(arrays) - 2, -1, -2):
            parts += [errors.sum(axis=0), values[i // 2].T @ errors + penalty * arrays[i]]
            if i:
                errors = (errors @ arrays[i].T) * slope(values[i // 2])
        return flatten(parts[::-1])

    def predict(self, vector: Vector, X: Matrix) -> NDArray[Any]:
        """Return labels or numbers, shape (rows,)."""
        return labels_of(self.classes, self.scores(vector, X))

    def accuracy(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> float:
        """Return the part of rows classified right, or R^2."""
        return accuracy(self.classes, self.predict(vector, X), y)

    def estimator(self, vector: Vector) -> Any:
        """Return a fitted copy of the estimator that this model was made from.

        Raises
        ------
        ConfigError
            If it was made from none.
        """
        from sklearn.base import clone

        if self.template is None:
            raise ConfigError("this model was made from layers; make it by vfl.horizontal.models.adapted")
        fitted, arrays = clone(self.template), unflatten(vector.copy(), self.shapes)
        if self.classes is not None:
            fitted.classes_ = self.classes
            if len(self.classes) == 2:
                arrays[-2:] = [part[..., 1:] - part[..., :1] for part in arrays[-2:]]
        fitted.n_features_in_ = self.layers[0]
        if not hasattr(fitted, "hidden_layer_sizes"):
            one = self.classes is None
            fitted.coef_, fitted.intercept_ = (arrays[0].ravel() if one else arrays[0].T), arrays[1]
            return fitted
        return _fitted_network(fitted, arrays, self.classes)


def _fitted_network(fitted: Any, arrays: list[Matrix], classes: NDArray[Any] | None) -> Any:
    from sklearn.preprocessing import LabelBinarizer

    fitted.coefs_, fitted.intercepts_ = arrays[::2], arrays[1::2]
    fitted.n_layers_, fitted.n_outputs_ = len(arrays) // 2 + 1, arrays[-1].size
    fitted.out_activation_ = "identity"
    if classes is not None:
        fitted.out_activation_ = "logistic" if len(classes) == 2 else "softmax"
        fitted._label_binarizer = LabelBinarizer().fit(classes)
    return fitted


def adapted(estimator: Any, features: int, classes: Iterable[Any] | None = None) -> Network:
    """Return the model of an unfitted estimator of scikit-learn.

    Parameters
    ----------
    estimator : object
        LogisticRegression, SGDClassifier(loss="log_loss"), LinearRegression, Ridge, SGDRegressor, MLPClassifier or
        MLPRegressor. Of its parameters the architecture counts; how it is trained is the federation's.
    features : int
    classes : iterable, optional
        All labels that occur at any client; none for a regression.

    Raises
    ------
    ConfigError
        If it is another estimator.
    """
    name = type(estimator).__name__
    classifiers = {"LogisticRegression", "SGDClassifier", "MLPClassifier"}
    if name not in classifiers | {"LinearRegression", "Ridge", "SGDRegressor", "MLPRegressor"}:
        raise ConfigError(f"{name} is no linear model or network of scikit-learn that can be averaged")
    if (name in classifiers) != (classes is not None):
        raise ConfigError(f"{name}: name the classes of a classifier, and none of a regression")
    if name == "SGDClassifier" and estimator.loss != "log_loss":
        raise ConfigError('SGDClassifier: the loss has to be "log_loss"')
    labels = None if classes is None else np.unique(np.array(list(classes)))
    hidden = np.atleast_1d(getattr(estimator, "hidden_layer_sizes", ())).astype(int).tolist()
    layers = (features, *hidden, 1 if labels is None else len(labels))
    return Network(layers, labels, getattr(estimator, "activation", "relu"), template=estimator)
