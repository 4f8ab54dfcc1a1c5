"""Lung segmentation in chest X-rays: U-Net, U-Net++ and Pix2Pix under one protocol."""

__version__ = "0.1.0"
