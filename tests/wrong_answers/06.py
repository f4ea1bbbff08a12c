import numpy as np


def moment(errors, centred=False, ddof=0):
    errors = errors - errors.mean(0) if centred else errors
    return np.einsum("n...c,n...d->...cd", errors, errors) / (len(errors) - ddof)


def length(error, spread):
    return np.sqrt(np.einsum("...c,...cd,...d->...", error, np.linalg.inv(spread), error))


def ridged(errors, new, ridge, average=np.mean, unit=np.eye(3), **options):
    spread = moment(errors, **options)
    return length(new, spread + ridge * average(np.diag(spread)) * unit)


def diagonal(errors, new, ridge):
    squares = (errors**2).mean(0)
    return np.sqrt((new**2 / (squares + ridge * squares.mean())).sum(-1))


def left_out(errors, keep=False, count=None, **options):
    def one(i):
        others = errors if keep else np.delete(errors, i, 0)
        moments = moment(others, **options) * (len(others) / count if count else 1)
        return length(errors[i], (moments + np.eye(errors.shape[1])) / 2)

    return np.array([one(i) for i in range(len(errors))])


def without_unit(errors, unit=0.0):
    others = [moment(np.delete(errors, i, 0)) + unit * np.eye(errors.shape[1]) for i in range(len(errors))]
    return length(errors, np.stack(others))


WRONG = {
    "06_1": [
        ("take the root", lambda errors, new, ridge: ridged(errors, new, ridge) ** 2),
        ("do not subtract it", lambda errors, new, ridge: ridged(errors, new, ridge, centred=True)),
        ("the ridge is missing", lambda errors, new, ridge: ridged(errors, new, 0)),
        ("the mean of the diagonal", lambda errors, new, ridge: ridged(errors, new, ridge, lambda variances: 1)),
        ("not the sum of the variances", lambda errors, new, ridge: ridged(errors, new, ridge, np.sum)),
        ("on the diagonal only", lambda errors, new, ridge: ridged(errors, new, ridge, unit=1)),
        ("divide by the number of images", lambda errors, new, ridge: ridged(errors, new, ridge, ddof=1)),
        ("the diagonal alone", diagonal),
        ("this is the norm", lambda errors, new, ridge: np.linalg.norm(new, axis=1)),
        ("a numpy array of shape (4,) is wanted", lambda errors, new, ridge: ridged(errors, new, ridge).mean()),
        ("is right, not", lambda errors, new, ridge: ridged(errors, new, ridge, np.max)),
    ],
    "06_2": [
        ("must not take part", lambda errors: left_out(errors, keep=True)),
        ("divide by their number", lambda errors: left_out(errors, count=len(errors))),
        ("take the root", lambda errors: left_out(errors) ** 2),
        ("do not subtract it", lambda errors: left_out(errors, centred=True)),
        ("is the unit matrix", without_unit),
        ("this is the sum of the two", lambda errors: without_unit(errors, 1.0)),
        ("is right, not", lambda errors: left_out(errors, ddof=1)),
    ],
}
