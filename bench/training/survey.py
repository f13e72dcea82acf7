"""Table III of the survey (Jadon 2020, arXiv:2006.14822): skull segmentation on NFBS with its 2D U-Net."""

TABLE_III = {  # Dice, sensitivity, specificity, by the names of the registry
    "cross_entropy": (0.968, 0.976, 0.998),
    "weighted_cross_entropy": (0.962, 0.966, 0.998),
    "focal": (0.936, 0.952, 0.999),
    "dice": (0.970, 0.981, 0.998),
    "tversky": (0.965, 0.979, 0.996),
    "focal_tversky": (0.977, 0.990, 0.997),
    "sensitivity_specificity": (0.957, 0.980, 0.996),
    "exp_log": (0.972, 0.982, 0.997),
    "log_cosh_dice": (0.989, 0.975, 0.997),
}
