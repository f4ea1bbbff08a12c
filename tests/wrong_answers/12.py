import numpy as np


def _iou(m, t, mask):
    return (mask & (m >= t)).sum() / (mask | (m >= t)).sum()


def quantile(anomaly_map, mask):
    return float(np.quantile(anomaly_map, 1 - mask.mean()))


def best_iou(anomaly_map, mask):
    return max(_iou(anomaly_map, t, mask) for t in anomaly_map.ravel())


def lowest_inside(anomaly_map, mask):
    return float(anomaly_map[mask].min())


def best_f1_of_precision(anomaly_map, mask):
    return max(anomaly_map.ravel(), key=lambda t: (mask & (anomaly_map >= t)).sum() / (anomaly_map >= t).sum())


def all_thresholds(anomaly_map, mask):
    return np.array([_iou(anomaly_map, t, mask) for t in anomaly_map.ravel()])


def norms(difference, channels):
    sums = np.stack([np.sqrt((p**2).sum(0)) for p in np.split(difference, np.cumsum(channels)[:-1])])
    return sums / sums.sum(0)


def means(difference, channels):
    sums = np.stack([(p**2).mean(0) for p in np.split(difference, np.cumsum(channels)[:-1])])
    return sums / sums.sum(0)


def absolute(difference, channels):
    sums = np.stack([np.abs(p).sum(0) for p in np.split(difference, np.cumsum(channels)[:-1])])
    return sums / sums.sum(0)


def over_the_image(difference, channels):
    sums = np.stack([(p**2).sum(0) for p in np.split(difference, np.cumsum(channels)[:-1])])
    return sums / sums.sum((1, 2), keepdims=True)


def one_number(difference, channels):
    sums = np.array([(p**2).sum() for p in np.split(difference, np.cumsum(channels)[:-1])])
    return sums / sums.sum()


WRONG = {
    "12_1": [quantile, best_iou, lowest_inside, best_f1_of_precision, all_thresholds],
    "12_2": [norms, means, absolute, over_the_image, one_number],
}
